"""Plan a study, train its runs, register its predictions, analyse the runs and write the report."""

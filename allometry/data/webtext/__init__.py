"""WebText: from a list of links to a data set of their pages' text.

links -> fetch -> extract -> filter -> dedup -> (contamination) -> build, one file a stage. The recipe is that
of WebText (Radford et al. 2019, section 2.1) as OpenWebText (Gokaslan and Cohen 2019) and OpenWebText2
(EleutherAI 2020) made it reproducible; docs/webtext.md says what each stage does and why.
"""

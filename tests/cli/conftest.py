"""The planted store and table are for every test of a command."""

import quickstart_store as planted

quickstart_store, table = planted.quickstart_store, planted.table

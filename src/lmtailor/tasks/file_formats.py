"""The names of file formats, for those who need no more."""

from typing import Literal

FormatName = Literal["csv", "tsv", "json", "jsonl", "parquet", "conllu", "conll", "nested", "squad", "webnlg", "dart", "lines"]
"""json: a list of records. nested: JSON Lines whose records hold others. conllu: words with all their annotation. conll: words
in columns. squad, webnlg, dart: those data sets' own. lines: one text a line, and what belongs to it in files beside."""

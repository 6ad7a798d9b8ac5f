"""Write the tables of every page: ``python -m docs_tables``."""

import logging

from docs_tables.pages import PAGES, ROOT, TABLES, written
from docs_tables.paired import Paired, keep_rows
from intarsia.runtime import atomic

if __name__ == "__main__":
    logging.disable(logging.WARNING)  # of files that are older than keys of their data
    keep_rows(table for table in TABLES.values() if isinstance(table, Paired))
    for page in PAGES:
        before = (ROOT / page).read_text(encoding="utf-8")
        after = written(page, before)
        with atomic(ROOT / page) as draft:
            draft.write_text(after, encoding="utf-8")
        print(f"{page}: {'written' if after != before else 'as it was'}")

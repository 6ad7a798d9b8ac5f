"""Everything the data at hand allows, for several models: results, tables and one page."""

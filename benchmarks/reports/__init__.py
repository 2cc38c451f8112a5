"""Reports as people read them: tables for the terminal and Markdown, a verdict of two runs, a page with plots."""

"""A desktop program: a picture in, a bundle picked, before and after under one seam, saved; `docs/desktop.md`."""

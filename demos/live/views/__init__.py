"""Where the frames go: a window, web pages, a file, or nowhere."""

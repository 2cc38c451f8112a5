"""A folder that runs a bundle in the visitor's browser, on any static host: `edgekit web BUNDLE OUT`."""

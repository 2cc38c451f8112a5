"""One file a family: the network and the recipe that trains, exports and quantizes it; bundles/ holds the results."""

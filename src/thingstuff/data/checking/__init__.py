"""What is wrong with a data set, found before anything is learned from it."""

//! What is wrong with a file, by line and column.

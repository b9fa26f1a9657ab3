"""Going back, making anew, backing up; and work that commands ask of a running process."""

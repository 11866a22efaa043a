"""The commands, one module each; what a command needs of other rooms it imports when it runs."""

"""The process on each machine: it lends memory, beats to the coordinator and carries out what the replies say."""

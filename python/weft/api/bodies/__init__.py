"""The JSON bodies, one file a family. They say what a request may look like; doors and services say what it means."""

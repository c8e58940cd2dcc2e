"""The nouns: ids, records, commands, events, policy, errors and canonical bytes. Imports nothing of the package."""

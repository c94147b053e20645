"""The books service: groups and types of book files, their pages, and an importer of records."""

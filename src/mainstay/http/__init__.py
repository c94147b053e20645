"""Requests over HTTP: both ends of the wire, and a room per framework."""

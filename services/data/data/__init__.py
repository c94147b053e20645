"""The data service: takes any JSON, processes it by a call or by a task, and keeps the record."""

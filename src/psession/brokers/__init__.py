"""Clients of message brokers, at home in Trio, and sessions over them: `psession.brokers.nats`."""

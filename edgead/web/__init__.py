"""What is seen of edgead over HTTP: a station's page and metrics, and the inspection of single images.

Everything here runs in processes of its own; a station imports none of it.
"""

"""The agent: holds the session with a manager and makes this node's containers follow what it is told.

    session -> assignments -> fabric, ingress table and one runner per task -> statuses -> session

Everything is level-triggered: each part compares what should be with what is, so a repeated or missed message does no
harm, and an agent that was killed picks up its containers where they are.
"""

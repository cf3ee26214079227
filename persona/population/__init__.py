"""What users' vectors say of one another: neighbours, segments, lookalikes, and directions that are taken out.

All of it crosses users, and none of it happens by itself.
"""

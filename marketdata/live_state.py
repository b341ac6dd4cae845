"""The small state that processes share, and the only direct user of Redis: latest quotes, feed status, demand, locks.

Every key begins with the namespace. Nothing here is the only copy of anything: Redis may be emptied at any moment.
Each function comes as it is needed: `a…` names are coroutines for event loops, the others block (tasks, commands, views).
"""

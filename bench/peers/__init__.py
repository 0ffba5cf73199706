"""The same job done with other libraries, each as its own documentation advises for speed.

The job: a client says ``{"join": room}`` and is answered ``{"joined": room}``; a client says
``{"room": …, "event": …, "data": …}`` and every member of the room gets the same. No
authentication, no history, no filters, no limits: what these servers leave out is their advantage.
Compression is off everywhere. ``--echo`` makes the server a plain echo instead.
"""

"""The broker of many nodes: a log of streams in Redis or Valkey.

**What is promised.** An event has its place when Redis says so, and then every node gives it the same one.
A node delivers a channel's events in order, once each, or says which it cannot deliver. All of this holds
while connections break, Redis restarts, or answers late, for as long as it keeps its data; when it
lost some, the channel gets another epoch, and everybody is told.

**Writing** (``writer.py``, ``scripts.py``). Sequence and epoch are kept beside the channel's
stream and change in one Lua script together with it, so there is one order, whoever publishes. A script
call carries the batches of many channels; a batch is one entry of the stream, however many events it
has. A channel has one batch on its way: that makes the order obvious, lets batches grow with the load
by themselves, and makes "was it carried out?" a question about one number.

**Reading** (``feed.py``, ``channel.py``, ``repair.py``). The script also publishes the
entry, and a node subscribes to the channels that have members here. Measured: one ``XREAD BLOCK`` over
2,048 streams costs Redis 3 ms for every wake-up, over 256 still 0.7 ms, and has to be sent again whole
for every room that is entered; a subscription costs nothing until something is published, and then
0.1 ms whatever the number of rooms. But pub/sub loses silently, so the stream is the truth. Each entry
is numbered and names the one before it, and what does not follow exactly on the last one is looked up
in the stream. That catches a hole, a repetition, and another history (a replica that was behind).

**Delivering** (``turns.py``). What was read waits in the inbox, still encoded; the organisations
take turns of half a millisecond. When the inbox is full nothing more is read from the socket: then Redis
keeps it, and cuts us off when that gets too much, and the stream has it all the same.

**Away.** Publishes wait for ``patience`` seconds, then they are refused at once with 302. Those on their
way when the connection broke are sent again under their number, which is answered but not carried out a
second time. After the return every followed channel is compared with its stream, and what was missed is
delivered.

**Where** (``servers.py``, ``link.py``, ``connection.py``). One server, the primary that
Sentinels name, or a cluster, where the keys of a channel share a slot and each primary has its own
connections.
"""

"""The protocol of sessions, pure: no Trio, no clock, no I/O, no logging, no chance. Time is an argument.

In the order in which they explain each other:

================ =====================================================================================================
`states`         the states of a turn and of an exact session, and the tables that lead from one to the next
`dialogue`       what is known of one session, and of one turn that this side asks
`connection`     the machine of one port: ``receive(message, now) -> events``; commands return what to send
`asking`         turns that this side asks: their numbers, their messages, whose an answer is
`answering`      turns that the peer asks: each run once, answered as often as asked
`peer_turns`     the memory for that: the last turn of each session's number, and its stored answer
`credit`         places and credit of the many answers to one turn
`handshake`      hello, welcome, signs of life, goodbye: messages of two ports about themselves
`sessions`       both sides' sessions by number; `numbers` hands the numbers out
`deadlines`      one heap for the deadlines of turns and the lives of idle sessions
`retry`          how long a turn waits and how often it is tried; `backoff` and `bucket` are its parts
`endings`        why something is over, as data
`counters`       everything that is counted, and every reason for which a message is dropped
`header`         the fields of the exact wire in one message; `dialect` writes and reads them
================ =====================================================================================================
"""

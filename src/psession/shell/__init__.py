"""The shell: Trio around the protocol. It waits, wakes, sends and cancels as the protocol's events say.

================ =====================================================================================================
`manager`        ports by name
`port`           a port and its sessions, as users see them
`turn`           one ``send`` and its reply; `stream` one with many replies, which `replies` shows to users
`live_session`   the shell's side of one session: its waiting tasks and its inbox
`engine`         what the sessions and tasks of a port share; it carries the protocol's events out
`port_tasks`     a port's nursery and tasks, from opening to the last byte flushed
`handlers`       the handlers of sessions that the peer opens
`waiting`        the one place where a task is put to sleep and woken
`outbox`         what waits to be written, and its writer; `channel_outbox`, `sender_outbox`
`timekeeper`     the one task that sleeps for all deadlines of a port
`busy_wait`      waiting awake for a local peer
`links`          one channel over several links
`listen`         one channel, many ports: reading; `share` writing
================ =====================================================================================================
"""

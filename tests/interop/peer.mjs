// A peer that knows the classic wire and nothing else: one integer field, counted up from 1, one reply to a message.
//
//   node peer.mjs serve ws|tcp          prints its port, answers every message that has a sid
//   node peer.mjs call ws|tcp PORT      10 turns in one session, then 1,000 sessions at once; prints "ok TURNS"
import { run } from "./connections.mjs";

function answer(connection) {
    connection.onMessage((message) => {
        if ("sid" in message) connection.send({ sid: message.sid, type: "response", value: message.value });
    });
}

async function call(connection) {
    const waiting = new Map();
    let turns = 0;
    connection.onMessage((message) => waiting.get(String(message.sid))?.(message));
    const send = (sid, value) =>
        new Promise((resolve, reject) => {
            waiting.set(String(sid), resolve);
            connection.send({ type: "request", value, sid });
            setTimeout(() => reject(new Error(`no reply to session ${sid}`)), 20000).unref();
        }).then((reply) => {
            if (reply.value !== value || reply.sid !== sid) throw new Error(`wrong: ${value} ${JSON.stringify(reply)}`);
            turns += 1;
        });
    for (let turn = 0; turn < 10; turn++) await send(1, turn);
    await Promise.all(Array.from({ length: 1000 }, (_, n) => send(n + 1, `token ${n}`)));
    console.log(`ok ${turns}`);
    process.exit(0);
}

run(answer, call);

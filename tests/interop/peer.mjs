// A peer that knows the classic wire and nothing else: one integer field, counted up from 1, one reply to a message.
//
//   node peer.mjs serve ws|tcp          prints its port, answers every message that has a sid
//   node peer.mjs call ws|tcp PORT      10 turns in one session, then 1,000 sessions at once; prints "ok TURNS"
import net from "node:net";
import { createRequire } from "node:module";

const [, , role, kind, port] = process.argv;
const ws = kind === "ws" ? createRequire(process.cwd() + "/")("ws") : undefined;

// A connection here is { send(object), onMessage(callback) }.
function overTcp(socket) {
    let rest = "";
    socket.on("error", () => {}); // its peer left with a message of ours unread
    return {
        send: (message) => socket.write(JSON.stringify(message) + "\n"),
        onMessage: (callback) =>
            socket.on("data", (data) => {
                const lines = (rest + data).split("\n");
                rest = lines.pop();
                lines.filter(Boolean).forEach((line) => callback(JSON.parse(line)));
            }),
    };
}

function overWebSocket(socket) {
    return {
        send: (message) => socket.send(JSON.stringify(message)),
        onMessage: (callback) => socket.on("message", (data) => callback(JSON.parse(data.toString()))),
    };
}

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

if (role === "serve" && kind === "tcp") {
    const server = net.createServer((socket) => answer(overTcp(socket)));
    server.listen(0, "127.0.0.1", () => console.log(server.address().port));
} else if (role === "serve") {
    const server = new ws.WebSocketServer({ host: "127.0.0.1", port: 0 });
    server.on("connection", (socket) => answer(overWebSocket(socket)));
    server.on("listening", () => console.log(server.address().port));
} else if (kind === "tcp") {
    const socket = net.connect(Number(port), "127.0.0.1", () => call(overTcp(socket)));
} else {
    const socket = new ws.WebSocket(`ws://127.0.0.1:${port}`);
    socket.on("open", () => call(overWebSocket(socket)));
}

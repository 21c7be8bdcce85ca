// A peer that knows the exact wire, from docs/protocol.md alone, and answers classic questions as well.
//
//   node exact.mjs serve ws|tcp         prints its port, runs each turn once, answers it as often as it is asked
//   node exact.mjs call ws|tcp PORT     10 turns in one session, then 200 sessions at once; prints "ok TURNS"
import net from "node:net";
import { createRequire } from "node:module";

const [, , role, kind, port] = process.argv;
const ws = kind === "ws" ? createRequire(process.cwd() + "/")("ws") : undefined;

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

function answer({ send, onMessage }) {
    const last = new Map(); // sid: the last turn and its answer
    let runs = 0;
    onMessage(({ sid, _turn, _error, _end, _life, value }) => {
        if (sid === undefined) return;
        if (_turn === undefined) return _end || send({ sid, value }); // a classic question
        const known = last.get(sid) ?? { turn: 0 };
        if (_error !== undefined) {
            if (_turn >= known.turn) last.set(sid, { turn: _turn });
            return _end && _turn >= known.turn && send({ sid, _re: _turn, _error: "ended", _end, _life });
        }
        if (_turn < known.turn) return;
        if (_turn > known.turn) last.set(sid, { turn: _turn, answer: { sid, value, runs: ++runs, _re: _turn, _life } });
        send(last.get(sid).answer ?? { sid, _re: _turn, _error: "forgotten", _life });
    });
}

async function call({ send, onMessage }) {
    const [waiting, _life] = [new Map(), 1 + Math.floor(Math.random() * 2 ** 48)];
    let [next, turns] = [1, 0];
    onMessage((message) => waiting.get(message._re)?.(message));
    async function ask(sid, value, fields) {
        const _turn = next++;
        const reply = await new Promise((resolve) => {
            const attempt = () => send({ sid, value, _turn, ...fields, _life });
            const again = setInterval(attempt, 50);
            waiting.set(_turn, (message) => {
                if (message._wait !== undefined) return; // in progress
                clearInterval(again);
                waiting.delete(_turn);
                resolve(message);
            });
            attempt();
        });
        if (reply.value !== value || reply.sid !== sid) throw new Error(`wrong: ${value} ${JSON.stringify(reply)}`);
        turns += 1;
    }
    for (let turn = 0; turn < 10; turn++) await ask(1, turn, turn ? {} : { _new: true });
    await Promise.all(Array.from({ length: 200 }, (_, n) => ask(n + 2, `token ${n}`, { _new: true, _end: true })));
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

// What carries a peer's messages: TCP with a message a line, or a WebSocket. `run` serves or calls, as the command line says.
//
// A connection is { send(object), onMessage(callback) }.
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

export function run(answer, call) {
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
}

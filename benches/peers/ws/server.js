// Node `ws` and `pg`: one LISTEN connection, and a Map from users to their sockets.
const { WebSocketServer } = require('ws');
const { Client } = require('pg');

const sockets = new Map(); // user -> Set of sockets

const server = new WebSocketServer({ host: '127.0.0.1', port: process.env.PORT });

server.on('connection', (socket, request) => {
  const user = decodeURIComponent(request.url.split('/')[3]);
  if (!sockets.has(user)) sockets.set(user, new Set());
  sockets.get(user).add(socket);
  socket.isAlive = true;
  socket.on('error', console.error);
  socket.on('pong', heartbeat);
  socket.on('close', () => {
    const own = sockets.get(user);
    own.delete(socket);
    if (own.size === 0) sockets.delete(user);
  });
  socket.send('{"type":"info","message":"Connected to real-time notifications","connected":true}');
});

// "How to detect and close broken connections?" of the documentation.
function heartbeat() {
  this.isAlive = true;
}
setInterval(() => {
  for (const socket of server.clients) {
    if (!socket.isAlive) {
      socket.terminate();
      continue;
    }
    socket.isAlive = false;
    socket.ping();
  }
}, 30_000);

const database = new Client({ connectionString: process.env.DATABASE_URL });
database.on('notification', ({ payload }) => {
  const { user, notification } = JSON.parse(payload);
  const own = sockets.get(user);
  if (!own) return;
  const frame = JSON.stringify(notification);
  for (const socket of own) socket.send(frame);
});
database.connect().then(() => database.query('listen notification'));

// socket.io and its Postgres adapter: a room for each user. The trigger speaks as the adapter's emitters do, so a row reaches
// the user's room on every node of a cluster without code here.
const { createServer } = require('node:http');
const { Server } = require('socket.io');
const { createAdapter } = require('@socket.io/postgres-adapter');
const { Pool } = require('pg');

const pool = new Pool({ connectionString: process.env.DATABASE_URL });
pool.on('error', console.error);

const server = createServer();
const io = new Server(server);
io.adapter(createAdapter(pool));
// "Memory usage" of the documentation: nobody needs the handshake's request any more.
io.engine.on('connection', (socket) => {
  socket.request = null;
});

io.on('connection', (socket) => {
  socket.join(socket.handshake.auth.user);
});

server.listen(Number(process.env.PORT), '127.0.0.1');

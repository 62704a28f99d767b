// uWebSockets.js and `pg`: one LISTEN connection, and a topic of the server's own publish and subscribe for each user.
const uWS = require('@trufflesuite/uws-js-unofficial');
const { Client } = require('pg');

const app = uWS.App();

app.ws('/ws/notifications/:user/', {
  idleTimeout: 60, // it pings by itself
  maxPayloadLength: 4096,
  maxBackpressure: 1024 * 1024, // what a slow socket may have waiting before it loses messages
  upgrade: (response, request, context) => {
    response.upgrade(
      { user: decodeURIComponent(request.getParameter(0)) },
      request.getHeader('sec-websocket-key'),
      request.getHeader('sec-websocket-protocol'),
      request.getHeader('sec-websocket-extensions'),
      context,
    );
  },
  open: (socket) => {
    socket.subscribe(socket.getUserData().user);
    socket.send('{"type":"info","message":"Connected to real-time notifications","connected":true}');
  },
});

const database = new Client({ connectionString: process.env.DATABASE_URL });
database.on('notification', ({ payload }) => {
  const { user, notification } = JSON.parse(payload);
  app.publish(user, JSON.stringify(notification));
});
database.connect().then(() => database.query('listen notification'));

app.listen('127.0.0.1', Number(process.env.PORT), (listening) => {
  if (!listening) process.exit(1);
});

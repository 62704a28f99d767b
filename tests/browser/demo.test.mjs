// The browser test of the demo page: it presses every button in a real Chromium and looks at what the two people are told.
// It waits for facts (a frame, an answer, an element) and never for a fixed time.
//
//   npm ci && npm test
//
// DEMO_URL        a demo that runs already; without it the test starts NOTIFIER_BIN itself
// NOTIFIER_BIN    the program to start (default: ../../target/debug/parkmate-notifier)
// CHROMIUM        the browser (default: /usr/bin/chromium, then what PATH has)
// SCREENSHOT_DIR  when set, screenshots of the page are saved there

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { accessSync, constants, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const SOON = { timeout: 30_000 };
const TIMED = { timeout: 120_000 };
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

// The timed ones come first, so that their timers run while the others are pressed.
const EVENTS = [
  { event: 'booking.expiring', told: 'driver', level: 'warning', timed: true },
  { event: 'booking.expired', told: 'driver', level: 'info', timed: true },
  { event: 'booking.renewed', told: 'driver', level: 'success' },
  { event: 'booking.renewal_failed', told: 'driver', level: 'error' },
  { event: 'booking.completed', told: 'driver', level: 'warning' },
  { event: 'booking.declined', told: 'driver', level: 'warning' },
  { event: 'payment.verified', told: 'driver', level: 'success' },
  { event: 'booking.created', told: 'owner', level: 'info' },
  { event: 'carwash.completed', told: 'driver', level: 'success' },
  { event: 'employee.assigned', told: 'owner', level: 'info' },
];
const ROLES = ['driver', 'owner'];

const executablePath = findChromium();
const skip = executablePath ? false : 'skipped: no Chromium: install the package chromium';

describe('demo page', { skip, timeout: 300_000 }, () => {
  let url;
  let stopDemo = async () => {};
  let profile;
  let context;
  let page;
  const complaints = [];

  before(async () => {
    if (process.env.DEMO_URL) url = process.env.DEMO_URL;
    else ({ url, stop: stopDemo } = await startDemo());
    profile = mkdtempSync(join(tmpdir(), 'parkmate-demo-'));
    context = await chromium.launchPersistentContext(profile, { executablePath, headless: true, viewport: { width: 1280, height: 900 }, args: FLAGS });
    page = await context.newPage();
    page.on('console', (message) => ['error', 'warning'].includes(message.type()) && complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(String(error)));
    await page.goto(url);
  });

  after(async () => {
    await context?.close();
    await stopDemo();
    if (profile) rmSync(profile, { recursive: true, force: true });
  });

  test('both people go live', async () => {
    await bothLive(page);
    assert.deepEqual(
      await page.getByTestId('action').evaluateAll((bays) => bays.map((bay) => [bay.dataset.event, bay.dataset.level])),
      EVENTS.map(({ event, level }) => [event, level]),
    );
  });

  test('a focused button shows its SQL before it is pressed', async () => {
    const { actions } = await (await page.request.get(new URL('/demo/actions', url).href)).json();
    for (const { event, sql } of actions) {
      await button(page, event).focus();
      await sqlIs(page, sql);
    }
  });

  test('every button tells the right person, once, and shows its SQL', async (t) => {
    const expected = [];
    for (const { event, told, level, timed } of EVENTS) {
      await t.test(event, async () => {
        // A timed action inserts a booking, which the owner is told at once.
        const now = timed ? { told: 'owner', event: 'booking.created', level: 'info' } : { told, event, level };
        const already = await liveToasts(page);
        const [answer] = await Promise.all([
          page.waitForResponse((response) => response.request().method() === 'POST' && response.url().endsWith(`/demo/actions/${event}`), SOON),
          button(page, event).click(),
        ]);
        assert.equal(answer.status(), 200);
        const { sql, rows, due } = await answer.json();
        await sqlIs(page, sql);
        await page.getByTestId('sql').getByText(`${rows} row`).waitFor(SOON);
        if (timed) {
          assert.ok(due.some((timer) => timer.event === event), `no timer for ${event} in the answer`);
          await page.locator(`[data-testid="countdown"][data-event="${event}"]`).waitFor(SOON);
        }
        const before = already.filter((toast) => toast.role === now.told && toast.event === now.event).length;
        await toasts(page, now.told, now.event).nth(before).waitFor(SOON);
        expected.push(now);
        if (timed) expected.push({ told, event, level });
        // A booking of half a minute is within its last five minutes from the start, and so its user is told.
        if (event === 'booking.expired') expected.push(EVENTS[0]);
      });
    }

    for (const { event } of EVENTS.filter((one) => one.timed)) {
      await t.test(`${event} fires`, async () => {
        await page.locator(`[data-testid="countdown"][data-event="${event}"][data-phase="fired"]`).waitFor(TIMED);
        await page.getByTestId('person-driver').getByTestId('toast').and(page.locator(`[data-event="${event}"]`)).first().waitFor(SOON);
      });
    }

    // Each person has one socket, and a socket keeps its order: had a click told somebody twice or the wrong one,
    // that toast would be here by now, since the timed ones came many seconds after the rest.
    await t.test('and nobody was told anything else', async () => {
      const found = (await liveToasts(page)).map(({ role, event, level }) => `${role} ${event} ${level}`);
      assert.deepEqual(found.sort(), expected.map(({ told, event, level }) => `${told} ${event} ${level}`).sort());
    });
  });

  test('screenshots', { skip: !process.env.SCREENSHOT_DIR && 'SCREENSHOT_DIR is not set' }, async () => {
    const folder = process.env.SCREENSHOT_DIR;
    mkdirSync(folder, { recursive: true });
    await page.evaluate(() => Promise.all(document.getAnimations().map((animation) => animation.finished)));
    await page.emulateMedia({ colorScheme: 'light' });
    await page.screenshot({ path: join(folder, 'demo.png') });
    await page.emulateMedia({ colorScheme: 'dark' });
    await page.screenshot({ path: join(folder, 'demo-dark.png') });
    await page.emulateMedia({ colorScheme: null });
  });

  test('the console of the browser stays empty', () => assert.deepEqual(complaints, []));

  test('markup in a message is shown as text', async () => {
    const markup = '<img src=x onerror="document.title = \'run\'"><b>bold</b>';
    const other = await withSockets(context, url, (socket, role) => {
      socket.send(hello());
      socket.send(notification(`markup-${role}`, { message: markup, event: '<i>event</i>' }));
    });
    const toast = other.locator('[data-testid="toast"][data-id="markup-driver"]');
    await toast.waitFor(SOON);
    assert.equal(await toast.locator('.message').textContent(), markup);
    assert.equal(await toast.locator('img, b, i').count(), 0);
    assert.notEqual(await other.title(), 'run');
    await other.close();
  });

  test('a closed socket is opened again, and what is replayed is shown once', async () => {
    const opened = { driver: 0, owner: 0 };
    let dropDriver;
    const other = await withSockets(context, url, (socket, role) => {
      opened[role] += 1;
      socket.send(hello());
      if (role !== 'driver') return;
      dropDriver = () => socket.close();
      socket.send(notification('first', { replayed: opened.driver > 1 }));
      if (opened.driver > 1) socket.send(notification('missed', { replayed: true }));
    });
    const driver = other.getByTestId('person-driver');
    await driver.locator('[data-id="first"]').waitFor(SOON);
    await dropDriver();
    await stateIs(other, 'driver', 'reconnecting');
    await stateIs(other, 'owner', 'live');
    await stateIs(other, 'driver', 'live');
    await driver.locator('[data-id="missed"]').getByText('replayed').waitFor(SOON);
    assert.deepEqual(await driver.getByTestId('toast').evaluateAll((list) => list.map((toast) => toast.dataset.id)), ['missed', 'first']);
    assert.deepEqual(opened, { driver: 2, owner: 1 });
    await other.close();
  });

  test('the browser keeps the cookie that tells its device, and scripts do not see it', async () => {
    const socket = new URL('/ws/notifications/7/', url).href;
    const cookies = (await context.cookies(socket)).filter(({ name }) => name === 'notifier_device');
    assert.equal(cookies.length, 1);
    assert.deepEqual([cookies[0].httpOnly, cookies[0].sameSite, cookies[0].path], [true, 'Lax', '/ws/notifications']);
    assert.equal(await page.evaluate(() => document.cookie), '');
    await page.reload();
    await bothLive(page);
    assert.equal((await context.cookies(socket)).find(({ name }) => name === 'notifier_device').value, cookies[0].value);
  });

  test('a client that keeps cursors gets its protocol, and goes on from where it was', async () => {
    const frames = (after) =>
      page.evaluate(
        (after) =>
          new Promise((resolve, reject) => {
            const frames = [];
            const socket = new WebSocket(`ws://${location.host}/ws/notifications/4/${after && `?after=${after}`}`, ['notifier.v1']);
            socket.onerror = () => reject(new Error('the socket failed'));
            socket.onmessage = ({ data }) => {
              frames.push(JSON.parse(data));
              if (frames.at(-1).op !== 'live') return;
              resolve({ protocol: socket.protocol, frames });
              socket.close();
            };
          }),
        after,
      );
    const first = await frames('');
    assert.equal(first.protocol, 'notifier.v1');
    assert.equal(first.frames[0].resume, 'new');
    const again = await frames(first.frames.at(-1).cursor);
    assert.deepEqual([again.frames.length, again.frames[0].resume], [2, 'ok']);
  });

  test('the list is bounded', async () => {
    const other = await withSockets(context, url, (socket) => {
      socket.send(hello());
      for (let id = 1; id <= 120; id += 1) socket.send(notification(String(id)));
    });
    const driver = other.getByTestId('person-driver');
    await driver.locator('[data-id="120"]').waitFor(SOON);
    assert.equal(await driver.getByTestId('toast').count(), 50);
    await other.close();
  });

  test('a refused action says why', async () => {
    const other = await withSockets(context, url, (socket) => socket.send(hello()), async (refusing) => {
      await refusing.route('**/demo/actions/booking.renewed', (route) => route.fulfill({
        status: 409, contentType: 'application/problem+json', body: JSON.stringify({ title: 'Conflict', detail: 'There is no booking to renew.' }),
      }));
    });
    await button(other, 'booking.renewed').click();
    await other.getByTestId('sql').getByText('Conflict: There is no booking to renew.').waitFor(SOON);
    await other.close();
  });

  test('a phone of 390 pixels has nothing to scroll sideways', async () => {
    const phone = await withSockets(context, url, (socket, role) => {
      socket.send(hello());
      if (role === 'driver') socket.send(notification('wide', { message: `A word without an end: ${'parking'.repeat(40)}` }));
    }, (narrow) => narrow.setViewportSize({ width: 390, height: 844 }));
    await phone.locator('[data-id="wide"]').waitFor(SOON);
    assert.equal(await phone.evaluate(() => document.documentElement.scrollWidth), 390);
    await phone.close();
  });
});

// ---- Looking at the page ----

const button = (page, event) => page.locator(`[data-testid="action"][data-event="${event}"]`);

const toasts = (page, role, event) => page.getByTestId(`person-${role}`).locator(`[data-testid="toast"][data-event="${event}"][data-replayed="false"]`);

/** What this page was told while it looked on; a demo that ran before replays older notifications, which do not count. */
async function liveToasts(page) {
  const found = [];
  for (const role of ROLES) {
    const all = await page.getByTestId(`person-${role}`).locator('[data-testid="toast"][data-replayed="false"]').evaluateAll((list) => list.map((toast) => ({ ...toast.dataset })));
    found.push(...all.map((toast) => ({ ...toast, role })));
  }
  return found;
}

const stateIs = (page, role, text) => page.getByTestId(`person-${role}`).getByTestId('state').getByText(text, { exact: true }).waitFor(SOON);

const bothLive = (page) => Promise.all(ROLES.map((role) => stateIs(page, role, 'live')));

const sqlIs = (page, sql) => page.waitForFunction((text) => document.querySelector('[data-testid="sql"] code').textContent === text, sql, SOON);

// ---- Playing the server ----

/** A page of its own whose sockets are answered by `script(socket, role)` instead of the demo. */
async function withSockets(context, url, script, prepare = async () => {}) {
  const { people } = await (await context.request.get(new URL('/demo/actions', url).href)).json();
  const page = await context.newPage();
  await page.routeWebSocket(/\/ws\/notifications\//, (socket) => {
    const person = people.find(({ user_id }) => socket.url().endsWith(`/ws/notifications/${user_id}/`));
    script(socket, person.role);
  });
  await prepare(page);
  await page.goto(url);
  await bothLive(page);
  return page;
}

const hello = () => JSON.stringify({ type: 'info', message: 'Connected to real-time notifications', connected: true, user: '7', unread: 0, server_time: new Date().toISOString() });

const notification = (id, fields = {}) =>
  JSON.stringify({ type: 'info', message: 'A message.', id, event: 'booking.created', data: {}, created_at: '2030-01-02T03:04:05.123456Z', replayed: false, ...fields });

// ---- Starting the programs ----

/** Starts the demo on a free port and reads the address from its output. */
async function startDemo() {
  const here = fileURLToPath(new URL('.', import.meta.url));
  const program = process.env.NOTIFIER_BIN ?? join(here, '../../target/debug/parkmate-notifier');
  const child = spawn(program, ['demo', '--listen', '127.0.0.1:0'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = new Promise((resolve) => child.once('exit', (code, signal) => resolve(`${code ?? signal}`)));
  child.stdout.setEncoding('utf8');

  let output = '';
  const url = await new Promise((resolve, reject) => {
    child.once('error', reject);
    exited.then((how) => reject(new Error(`the demo ended (${how}) before it named its address:\n${output}`)));
    // Read on after the address, so that the pipe never fills up.
    child.stdout.on('data', (text) => {
      output += text;
      const found = output.match(/http:\/\/127\.0\.0\.1:\d+\//);
      if (found) resolve(found[0]);
    });
  });

  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) process.kill(child.pid, 'SIGTERM');
    await exited;
  };
  return { url, stop };
}

function findChromium() {
  const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
  const folders = (process.env.PATH ?? '').split(delimiter).filter(Boolean);
  const usual = ['/usr/bin/chromium', ...folders.flatMap((folder) => names.map((name) => join(folder, name)))];
  const places = process.env.CHROMIUM ? [process.env.CHROMIUM] : usual;
  return places.find((place) => {
    try {
      accessSync(place, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

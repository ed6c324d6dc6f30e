const find = (id) => document.getElementById(id);

const config = await (await fetch("/api/config")).json();

// Without a PostHog to talk to nothing is sent; sessions, cookie and headers are as ever. The
// configuration that it would send is put in place, so that clicks still count as activity.
const offline = {
  api_host: location.origin,
  advanced_disable_flags: true,
  disable_session_recording: true,
  disable_surveys: true,
  before_send: () => null,
};
if (!config.posthogHost) {
  window._POSTHOG_REMOTE_CONFIG = { [config.posthogToken]: { config: { autocapture_opt_out: false } } };
}

posthog.init(config.posthogToken, {
  // Adds the session ID to each fetch and XMLHttpRequest for these hosts: names, no ports.
  tracing_headers: [location.hostname],
  // posthog-js does nothing in an automated browser, which may be what drives this demo.
  opt_out_useragent_filter: true,
  ...(config.posthogHost ? { api_host: config.posthogHost, capture_exceptions: true } : offline),
});

// A session ends after 30 minutes without activity, and at sign-out.
const showSession = (sessionId) => (find("session-id").textContent = sessionId);
showSession(posthog.get_session_id());
posthog.onSessionId(showSession);

function showUser(user) {
  find("user-id").textContent = user?.id ?? "nobody has signed in";
  find("user-name").textContent = user?.name ?? "";
  find("sign-in").hidden = Boolean(user);
  find("signed-in").hidden = !user;
  // The recording's person is the one on the log lines: the same stable ID, no e-mail.
  if (user) posthog.identify(user.id);
  hangUp();
}

async function post(path, body = {}) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`The server answered with ${response.status}.`);
  return response.json();
}

function showMessage(text, className) {
  const item = document.createElement("li");
  item.className = className;
  item.textContent = text;
  find("messages").append(item);
  item.scrollIntoView({ block: "nearest" });
}

find("chat-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const message = find("message").value;
  // A recording has what sets a value, and not what resets a form.
  find("message").value = "";
  find("typing").textContent = "";
  showMessage(message, "mine");
  try {
    // With the header this field is not needed. It helps where headers are not allowed.
    const body = { message, sessionId: posthog.get_session_id() };
    showMessage((await post("/api/chat", body)).answer, "theirs");
  } catch (error) {
    showMessage(error.message, "theirs");
  }
});

find("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    showUser(await post("/api/sign-in", Object.fromEntries(new FormData(event.target))));
    find("account-status").textContent = "";
  } catch (error) {
    find("account-status").textContent = error.message;
  }
});

find("sign-out").addEventListener("click", async () => {
  await post("/api/sign-out");
  // A new session and a new anonymous person: what comes now is not this user's.
  posthog.reset();
  showUser(null);
});

find("export").addEventListener("click", async () => {
  try {
    await post("/api/export");
  } catch (error) {
    posthog.captureException(error);
    find("export-status").textContent = `${error.message} The terminal shows the traceback.`;
  }
});

// A WebSocket can set no header either. Its lines have the IDs that the cookies had as it
// was opened, so another user needs another one.
let socket = null;

function hangUp() {
  socket?.close();
  socket = null;
}

async function say(text) {
  if (!socket) {
    socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/ws`);
    socket.onmessage = (event) => (find("typing").textContent = event.data);
    socket.onclose = ({ target }) => target === socket && hangUp();
  }
  const current = socket;
  if (current.readyState === WebSocket.CONNECTING) {
    await new Promise((resolve) => current.addEventListener("open", resolve, { once: true }));
  }
  if (current.readyState === WebSocket.OPEN) current.send(text);
}

if (config.live) {
  let timer;
  find("message").addEventListener("input", ({ target }) => {
    clearTimeout(timer);
    timer = setTimeout(() => target.value && say(target.value), 300);
  });
}

find("framework").textContent = config.framework;
find("framework").hidden = false;
if (config.viewer) {
  find("viewer").href = config.viewer;
  find("viewer-hint").hidden = false;
}
showUser(config.user);
if (new URLSearchParams(location.search).has("thanks")) {
  find("form-status").textContent = "Thank you for the feedback.";
}

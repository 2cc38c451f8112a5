"use strict";
// The page of `edgekit live`: draws what the server sends, says what is asked for, and lends its camera.

const byId = (id) => document.getElementById(id);
const canvas = byId("canvas"), pen = canvas.getContext("2d", { alpha: false });
const token = new URLSearchParams(location.search).get("token");
const query = token ? "?token=" + encodeURIComponent(token) : "";
const KINDS = { style: "Style", upscale: "Upscale", both: "Both", compare: "Side by side", none: "None" };

let socket = null, attempts = 0, fallback = false, ended = false;
let wish = {}, choices = {}, newest = 0, frames = 0;

// --- the conversation -------------------------------------------------------------------------------------------

function connect() {
  if (new URLSearchParams(location.search).has("mjpeg")) return fallBack();
  const address = new URL("ws" + query, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  let heard = false;
  socket.onmessage = (event) => {
    heard = true;
    attempts = 0;
    if (typeof event.data === "string") told(JSON.parse(event.data));
    else show(event.data);
  };
  socket.onclose = (event) => {
    socket = null;
    stopFilming();
    if (ended) return;
    byId("waiting").textContent = event.reason || "no connection: trying again…";
    attempts += 1;
    if (!heard && attempts >= 3 && !frames) fallBack();
    else setTimeout(connect, Math.min(5000, 400 * 2 ** Math.min(attempts, 4)));
  };
}

function say(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  else if (fallback) post(message);
}

async function post(message) {
  const answer = await fetch("say" + query, { method: "POST", body: JSON.stringify(message) });
  if (answer.ok) told(await answer.json());
  else notice(await answer.text());
}

// Motion JPEG where WebSockets do not come through: the picture in an <img>, the rest by plain requests.
function fallBack() {
  fallback = true;
  const still = byId("still");
  still.onload = () => { byId("waiting").textContent = ""; };
  still.onerror = () => { byId("waiting").textContent = "no connection"; };
  still.src = "stream" + query;
  still.hidden = false;
  canvas.hidden = true;
  setInterval(async () => {
    try {
      told(await (await fetch("state" + query)).json());
    } catch {
      byId("waiting").textContent = "no connection";
    }
  }, 1000);
}

// --- the picture ------------------------------------------------------------------------------------------------

// Every frame is acknowledged, also one that cannot be decoded, or that another has overtaken: the server sends no
// more than two that are not.
async function show(data) {
  const number = new DataView(data).getUint32(0);
  try {
    if (document.hidden || number < newest) return;
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 4)], { type: "image/jpeg" }));
    if (number >= newest) draw(bitmap, number);
    bitmap.close();
  } catch (error) {
    notice("a frame could not be decoded");
  } finally {
    say({ ack: number });
  }
}

function draw(bitmap, number) {
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  pen.drawImage(bitmap, 0, 0);
  newest = number;
  frames += 1;
  byId("waiting").textContent = "";
}

// --- what the server says ---------------------------------------------------------------------------------------

function told(message) {
  if (message.error) return notice(message.error);
  if ("got" in message) return filming && filming.got(message.got);
  if (message.choices) return offer(message.choices);
  figures(message);
  if (message.wish) chosen(message.wish);
  notice(message.notice || "");
  if (filming && !message.filmed && filming.sent > 30) stopFilming();
}

function figures(status) {
  const ms = (value) => (value === null || value === undefined ? "–" : value < 10 ? value.toFixed(1) : value.toFixed(0));
  byId("fps").textContent = status.fps.toFixed(1);
  byId("age").textContent = ms(status.age_ms.p50) + " / " + ms(status.age_ms.p95) + " ms";
  byId("model").textContent = ms(status.model_ms) + " ms";
  byId("dropped").textContent = status.dropped;
  byId("size").textContent = status.size || "–";
  byId("where").textContent = [status.engine, status.device, status.precision].filter(Boolean).join(" ") || "no model";
  const many = status.viewers > 1 ? ` · ${status.viewers} viewers` : "";
  byId("fine").textContent = `${status.source}, ${status.state}${many}`;
}

function notice(text) {
  if (byId("notice").textContent !== text) byId("notice").textContent = text;
}

function offer(offered) {
  if (JSON.stringify(offered) === JSON.stringify(choices)) return;
  choices = offered;
  chips("effect", offered.effect, (name) => KINDS[name] || name);
  chips("style", offered.style, named);
  chips("upscaler", offered.upscaler, (bundle) => named(bundle).replace(/^Sr-x/, "×"));
  for (const kind of ["runtime", "precision"]) {
    byId(kind).replaceChildren(...offered[kind].map((name) => new Option(name, name)));
  }
}

function named(bundle) {
  const name = bundle.split("/").pop().replace(/^style-/, "");
  return name.charAt(0).toUpperCase() + name.slice(1);
}

function chips(field, names, title) {
  const set = byId(field);
  for (const old of set.querySelectorAll("label")) old.remove();
  for (const name of names) {
    const label = document.createElement("label"), input = document.createElement("input"), text = document.createElement("span");
    label.className = "chip";
    Object.assign(input, { type: "radio", name: field, value: name });
    input.onchange = () => change({ [field]: name });
    text.textContent = title(name);
    label.append(input, text);
    set.append(label);
  }
}

function chosen(asked) {
  wish = asked;
  for (const field of ["effect", "style", "upscaler"]) {
    for (const input of document.getElementsByName(field)) input.checked = input.value === asked[field];
  }
  for (const field of ["runtime", "precision"]) {
    if (document.activeElement !== byId(field)) byId(field).value = asked[field];
  }
  byId("style").hidden = asked.effect === "upscale" || asked.effect === "none";
  byId("upscaler").hidden = asked.effect !== "upscale" && asked.effect !== "both";
  for (const field of ["mirror", "smooth"]) byId(field).setAttribute("aria-pressed", asked[field]);
  const split = asked.split !== null && asked.effect !== "none" && asked.effect !== "compare";
  byId("compare").setAttribute("aria-pressed", split);
  byId("split").disabled = !split;
  byId("seam").hidden = !split || fallback;
  if (split && !sliding) placeSeam(asked.split);
}

// --- what is asked for ------------------------------------------------------------------------------------------

function change(fields) {
  chosen({ ...wish, ...fields });
  say({ set: fields });
}

function next(field) {
  const names = choices[field] || [];
  if (names.length) change({ [field]: names[(names.indexOf(wish[field]) + 1) % names.length] });
}

let sliding = false, lastSplit = 0;
function slide(share, done) {
  const split = Math.min(1, Math.max(0, share));
  sliding = !done;
  placeSeam(split);
  const moment = performance.now();
  if (done || moment - lastSplit > 40) {
    lastSplit = moment;
    wish.split = split;
    say({ set: { split } });
  }
}

function placeSeam(split) {
  byId("split").value = Math.round(split * 100);
  const box = byId("picture").getBoundingClientRect(), shown = shownBox();
  byId("seam").style.left = `${shown.left - box.left + split * shown.width}px`;
}

// Where in the canvas's box the picture lies, which is fitted into it.
function shownBox() {
  const box = canvas.getBoundingClientRect(), factor = Math.min(box.width / canvas.width, box.height / canvas.height);
  const width = canvas.width * factor;
  return { left: box.left + (box.width - width) / 2, width };
}

function toggleSplit() {
  change({ split: wish.split === null ? 0.5 : null, ...(wish.effect === "compare" || wish.effect === "none" ? { effect: "style" } : {}) });
}

function stamped(suffix) {
  return "edgekit-" + new Date().toISOString().slice(0, 19).replace(/[T:]/g, "-") + suffix;
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function snapshot() {
  if (frames) canvas.toBlob((blob) => blob && download(blob, stamped(".png")), "image/png");
  else notice("there is no picture yet");
}

let recorder = null;
function record() {
  if (recorder) return recorder.stop();
  if (!frames || !window.MediaRecorder || !canvas.captureStream) return notice("this browser cannot record the picture");
  const kind = ["video/mp4", "video/webm"].find((type) => MediaRecorder.isTypeSupported(type)) || "";
  const parts = [];
  recorder = new MediaRecorder(canvas.captureStream(), kind ? { mimeType: kind } : {});
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = () => {
    download(new Blob(parts, { type: kind }), stamped(kind === "video/mp4" ? ".mp4" : ".webm"));
    recorder = null;
    byId("record").setAttribute("aria-pressed", "false");
  };
  recorder.start(1000);
  byId("record").setAttribute("aria-pressed", "true");
}

// --- the browser's own camera -----------------------------------------------------------------------------------

let filming = null;
async function film() {
  if (filming) return stopFilming();
  if (!navigator.mediaDevices) return notice("a page sees its own camera on localhost or HTTPS alone");
  let stream;
  try {
    const size = { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" };
    stream = await navigator.mediaDevices.getUserMedia({ video: size, audio: false });
  } catch (error) {
    return notice(`the camera cannot be used: ${error.message}`);
  }
  filming = new Filming(stream);
  say({ do: "own camera" });
  byId("camera").setAttribute("aria-pressed", "true");
}

function stopFilming() {
  if (!filming) return;
  filming.stop();
  filming = null;
  say({ do: "camera" });
  byId("camera").setAttribute("aria-pressed", "false");
}

class Filming {
  constructor(stream) {
    this.stream = stream;
    this.sent = this.waiting = 0;
    this.canvas = document.createElement("canvas");
    this.video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
    this.video.play();
    this.running = true;
    this.wait();
  }

  wait() {
    if (!this.running) return;
    const then = () => this.frame();
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(then);
    else setTimeout(then, 33);
  }

  frame() {
    const captured = performance.now(), { videoWidth: width, videoHeight: height } = this.video;
    if (width && this.waiting < 2) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.canvas.getContext("2d").drawImage(this.video, 0, 0);
      this.waiting += 1;
      this.canvas.toBlob((blob) => this.send(blob, captured), "image/jpeg", 0.85);
    }
    this.wait();
  }

  async send(blob, captured) {
    if (!blob || !this.running || !socket || socket.readyState !== WebSocket.OPEN) return;
    const head = new DataView(new ArrayBuffer(8));
    head.setUint32(0, (this.sent += 1));
    head.setFloat32(4, performance.now() - captured);
    socket.send(await new Blob([head, blob]).arrayBuffer());
  }

  got() {
    this.waiting = Math.max(0, this.waiting - 1);
  }

  stop() {
    this.running = false;
    for (const track of this.stream.getTracks()) track.stop();
  }
}

// --- hands ------------------------------------------------------------------------------------------------------

function quit() {
  if (!confirm("End edgekit live for everybody?")) return;
  ended = true;
  stopFilming();
  say({ do: "quit" });
  byId("waiting").textContent = "ended";
}

const KEYS = {
  e: () => next("effect"), s: () => next("style"), u: () => next("upscaler"), g: () => next("runtime"), p: () => next("precision"),
  c: toggleSplit, " ": snapshot, r: record, o: film, q: quit,
  m: () => change({ mirror: !wish.mirror }), t: () => change({ smooth: !wish.smooth }),
  ArrowLeft: () => wish.split !== null && slide(wish.split - 0.05, true),
  ArrowRight: () => wish.split !== null && slide(wish.split + 0.05, true),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  const own = event.target.closest("select, input, button");  // they have a use for some keys themselves
  if (own && (event.key === " " || event.key.startsWith("Arrow") || own.tagName === "SELECT")) return;
  event.preventDefault();
  KEYS[event.key]();
});

byId("compare").onclick = toggleSplit;
byId("snapshot").onclick = snapshot;
byId("record").onclick = record;
byId("mirror").onclick = KEYS.m;
byId("smooth").onclick = KEYS.t;
byId("camera").onclick = film;
byId("quit").onclick = quit;
byId("runtime").onchange = (event) => change({ runtime: event.target.value });
byId("precision").onchange = (event) => change({ precision: event.target.value });
byId("split").oninput = (event) => slide(event.target.value / 100, false);
byId("split").onchange = (event) => slide(event.target.value / 100, true);

const seam = byId("seam");
seam.onpointerdown = (event) => seam.setPointerCapture(event.pointerId);
seam.onpointermove = (event) => {
  if (!seam.hasPointerCapture(event.pointerId)) return;
  const shown = shownBox();
  slide((event.clientX - shown.left) / shown.width, false);
};
seam.onpointerup = (event) => {
  const shown = shownBox();
  slide((event.clientX - shown.left) / shown.width, true);
};
window.addEventListener("resize", () => wish.split !== null && wish.split !== undefined && placeSeam(wish.split));

if (!window.isSecureContext) {
  byId("camera").disabled = true;
  byId("camera").title = "A page sees its own camera on localhost or HTTPS alone";
}
connect();

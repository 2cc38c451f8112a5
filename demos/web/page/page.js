// The page: what is asked for by buttons, drops and pastes, and what is shown.

import { Camera } from "./camera.js";
import { blended } from "./images.js";
import { isolating } from "./isolation.js";
import { FITS, decoded, download, encoded, show } from "./pictures.js";
import { Failure, OUT_OF_MEMORY, Runner } from "./runner.js";
import { seam } from "./seam.js";

const byId = (id) => document.getElementById(id);
const TITLES = { upscale: (s) => `Pictures enlarged ×${s.scale}`, stylize: (s) => (s.style ? `Pictures in the manner of ${s.style}` : "Painted pictures") };
const KINDS = { wasm: "processor", webgpu: "graphics processor" };

let facts = null, runner = null, ready = false;
let camera = null, photo = null;  // photo: {blob, image, painting}
let turn = 0;  // counts what was asked for: an answer to something older is not shown

// --- beginning --------------------------------------------------------------------------------------------------

async function begin() {
  if (window.edgekitMissing) return;
  const answer = await fetch("edgekit-web.json");
  if (!answer.ok) throw new Failure("edgekit-web.json is not there: copy the whole folder");
  facts = await answer.json();
  describe();
  if (await isolating()) return;
  runner = new Runner(facts);
  await choose();
  if (photo) await paint();
}

function describe() {
  const title = (TITLES[facts.task] || (() => facts.name))(facts.settings);
  document.title = byId("title").textContent = title;
  byId("strengths").hidden = facts.task !== "stylize";
  const precisions = facts.variants.map((variant) => variant.precision);
  byId("precisions").hidden = precisions.length < 2;
  byId("precision").replaceChildren(new Option("the fastest", ""), ...precisions.map((name) => new Option(name, name)));
  const { engine, licence, data } = facts;
  byId("about").textContent =
    `${facts.name} ${facts.version}: ${facts.summary}. Licence of the model: ${licence || "not stated"}.` +
    `${data ? ` Trained on ${data}.` : ""} Written by ${facts.written_by}; runs on ${engine.package} ${engine.version} (${engine.licence} licence).`;
}

async function choose() {
  const wanted = byId("precision").value;
  usable(false);
  const precisions = wanted ? [wanted] : facts.variants.map((variant) => variant.precision);
  const chosen = await runner.open(precisions, (text) => (byId("hint").textContent = text));
  usable(true);
  byId("hint").textContent = "";
  byId("where").textContent = `Runs in ${named(chosen)}`;
  byId("side").textContent = `${chosen.side} × ${chosen.side}`;
  byId("measured").hidden = false;
  byId("measured").tBodies[0].replaceChildren(...runner.measured.map((way) => {
    const row = document.createElement("tr");
    for (const text of [named(way), way.ms.toFixed(1)]) row.insertCell().textContent = text;
    return row;
  }));
}

function usable(yes) {
  ready = yes;
  for (const id of ["open", "camera", "sample"]) byId(id).disabled = !yes;
}

function named({ kind, threads, precision }) {
  return `${precision} on the ${KINDS[kind]}` + (kind === "wasm" ? `, ${threads} thread${threads > 1 ? "s" : ""}` : "");
}

// --- a picture --------------------------------------------------------------------------------------------------

async function take(blob) {
  if (!blob) return;
  stopCamera();
  const before = photo;
  photo = { blob };
  try {
    await paint();
  } catch (error) {  // no picture: the one that is shown stays the one that is saved
    if (photo?.blob === blob && !photo.image) photo = before;
    throw error;
  }
}

async function paint() {
  if (!ready) {
    byId("hint").textContent = "the picture comes as soon as the model is there…";
    return;
  }
  const mine = (turn += 1), wanted = byId("photosize").value, scale = facts.settings.scale ?? 1;
  notice("");
  const image = await decoded(photo.blob, wanted === "fit" ? { pixels: FITS / scale ** 2 } : { longest: Number(wanted) });
  if (mine !== turn) return;
  photo = { blob: photo.blob, image };
  stage(image);
  working(0, 1);
  try {
    const painting = await runner.run(image, (done, total) => mine === turn && working(done, total));
    if (mine !== turn) return;
    if (!painting) return notice("stopped");
    photo.painting = painting;
    shown();
    byId("after").dataset.turn = mine;  // for who waits for it from outside
    figures(false, { pace: `${(painting.ms / 1000).toFixed(2)} s`, model: runner.chosen.precision, size: sizes(image, painting) });
    byId("said").textContent = `done in ${(painting.ms / 1000).toFixed(1)} seconds`;
    if (image.shrunk) notice(`The picture was shrunk to ${image.width} × ${image.height}; “Picture size” has other sizes.`);
  } finally {
    if (mine === turn) byId("working").hidden = true;
  }
}

// Show what has become of the photo, as strong as is asked for.
function shown() {
  const { image, painting } = photo, strength = byId("strength").value / 100;
  const blend = facts.task === "stylize" && strength < 1;
  show(byId("after"), blend ? { ...painting, pixels: blended(image.pixels, painting.pixels, strength) } : painting);
  revealed();
}

function stage(image) {
  byId("empty").hidden = true;
  byId("stage").hidden = false;
  byId("stage").classList.add("waiting");
  byId("stage").style.setProperty("--ratio", image.width / image.height);
  byId("stage").style.setProperty("--pixels", (image.width * (facts.settings.scale ?? 1)) / devicePixelRatio);
  show(byId("before"), image);
  for (const id of ["save", "seam", "actual"]) byId(id).disabled = true;
}

function revealed() {
  byId("stage").classList.remove("waiting");
  for (const id of ["save", "seam", "actual"]) byId(id).disabled = false;
}

async function save() {
  const type = photo && photo.blob.type !== "image/jpeg" ? "image/png" : "image/jpeg";
  const stem = photo?.blob.name?.replace(/\.[^.]*$/, "") || new Date().toISOString().slice(0, 19).replace(/[T:]/g, "-");
  download(await encoded(byId("after"), type), `${stem}-${facts.name}.${type === "image/jpeg" ? "jpg" : "png"}`);
}

// --- the camera -------------------------------------------------------------------------------------------------

async function film(facing = "user") {
  stopCamera();
  notice("");
  turn += 1;
  runner.stop();
  byId("working").hidden = true;
  const mine = (camera = await Camera.open(facing));
  photo = null;
  byId("camera").setAttribute("aria-pressed", "true");
  byId("turn").hidden = false;
  let ratio = 0, ms = 0, image = null, result = null;
  const each = async (frame) => {
    image = frame;
    result = await runner.run(frame);
    if (camera !== mine || !result) return;
    ms = result.ms;
    if (ratio !== (ratio = frame.width / frame.height)) stage(frame);
    show(byId("before"), frame);
    const strength = byId("strength").value / 100;
    const blend = facts.task === "stylize" && strength < 1;
    show(byId("after"), blend ? { ...result, pixels: blended(frame.pixels, result.pixels, strength) } : result);
    if (byId("save").disabled) revealed();
  };
  const told = ({ fps, age_ms, dropped }) =>
    camera === mine && result && figures(true, {
      pace: fps.toFixed(1), model: `${ms.toFixed(0)} ms`, age: `${age_ms.toFixed(0)} ms`, dropped: `${dropped}/s`, size: sizes(image, result),
    });
  try {
    await mine.play(() => Number(byId("camerasize").value), each, told);
  } finally {
    if (camera === mine) stopCamera();
  }
}

function stopCamera() {
  camera?.close();
  camera = null;
  byId("camera").setAttribute("aria-pressed", "false");
  byId("turn").hidden = true;
}

// --- what is said -----------------------------------------------------------------------------------------------

function notice(text) {
  byId("notice").textContent = text;
}

function working(done, total) {
  byId("working").hidden = false;
  byId("progress").value = done / total;
}

function sizes(image, result) {
  const [before, after] = [image, result].map(({ width, height }) => `${width} × ${height}`);
  return before === after ? after : `${before} → ${after}`;
}

function figures(live, values) {
  byId("figures").hidden = false;
  byId("figures").classList.toggle("camera", live);
  byId("pacename").textContent = live ? "fps" : "time";
  byId("modelname").textContent = live ? "model" : "precision";
  for (const [id, text] of Object.entries(values)) byId(id).textContent = text;
}

// Do something, and say in words what goes wrong.
function tried(action) {
  return async (...given) => {
    try {
      await action(...given);
    } catch (error) {
      byId("hint").textContent = "";
      if (OUT_OF_MEMORY.test(error.message)) notice("There is not enough memory for a picture of this size: choose a smaller “Picture size”.");
      else notice(error instanceof Failure ? error.message : `Something went wrong: ${error.message}`);
    }
  };
}

// --- what is asked for ------------------------------------------------------------------------------------------

const taken = tried(take);
byId("open").onclick = () => byId("file").click();
byId("file").onchange = () => {
  taken(byId("file").files[0]);
  byId("file").value = "";
};
byId("sample").onclick = tried(async () => {
  const blob = await (await fetch("sample.jpg")).blob();
  await take(new File([blob], "sample.jpg", { type: "image/jpeg" }));
});
byId("camera").onclick = tried(() => (camera ? stopCamera() : film()));
byId("turn").onclick = tried(() => film(camera.facing === "environment" ? "user" : "environment"));
byId("save").onclick = tried(save);
byId("stop").onclick = () => runner.stop();
byId("photosize").onchange = tried(async () => photo && (await paint()));
byId("precision").onchange = tried(async () => {
  const facing = camera?.facing;
  stopCamera();
  await choose();
  if (facing) await film(facing);
  else if (photo) await paint();
});
byId("strength").oninput = tried(() => {
  byId("strong").textContent = `${byId("strength").value} %`;
  if (photo?.painting) shown();
});
byId("actual").onclick = () => {
  const actual = byId("view").classList.toggle("actual");
  byId("actual").setAttribute("aria-pressed", actual);
};

document.addEventListener("paste", (event) => taken([...event.clipboardData.files][0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("view").classList.add("over");
});
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => byId("view").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  taken(event.dataTransfer.files[0]);
});
document.addEventListener("keydown", (event) => event.key === "Escape" && runner?.stop());

seam(byId("stage"), byId("seam"));
tried(begin)();

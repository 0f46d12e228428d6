// The page: what is chosen, what the server says of it, and where it is shown.

import { ask, casePath, maskLink, send, unpack, volumeUrl } from "./api.js";
import { droppedFiles, known, needRoles } from "./files.js";
import { ROLES, guessRole } from "./roles.js";
import { createScene, outlineOf } from "./scene.js";

const $ = (id) => document.getElementById(id);
const SEQUENCES = ["Pre-contrast", "FLAIR", "Post-contrast"];
const FLAGS = {
  no_tumour: "No tumour at this threshold.",
  low_expected_dice: "The expected Dice is low: look at this mask with care.",
  tumour_in_outermost_slice: "The mask reaches the first or last slice: some tumour may lie outside.",
  blank_slice: "A slice is blank.",
  pre_contrast_is_flair: "Pre-contrast is a copy of FLAIR: the sequence is missing.",
  post_contrast_is_flair: "Post-contrast is a copy of FLAIR: the sequence is missing.",
  normalised_by_one_slice: "A single slice was normalised by itself; a whole volume works better.",
};

let scene = null; // null where the browser cannot draw
let shown = null; // the case on show: its name and facts, masks once they are there
let listed = { patients: [], simulated: false };
let chosen = 0; // counts what was asked for, so that a late answer is not shown

// Numbers

const count = (number) => number.toLocaleString("en");
const size = (voxels, ml) =>
  `${count(voxels)} voxels` + (ml === null ? "" : ` · ${ml.toFixed(1)} ml`);
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

function say(text) {
  $("status").textContent = text;
}

function complain(error) {
  $("error").textContent = error?.message ?? "";
  $("error").hidden = !error;
  if (error) $("error").scrollIntoView({ block: "nearest" });
}

function wait(text) {
  $("waiting").textContent = text;
  $("waiting").hidden = !text;
  if (text) say(text);
}

// A case

async function open(name) {
  const mine = ++chosen;
  complain(null);
  wait("Segmenting …");
  try {
    const facts = await ask(casePath(name));
    if (mine === chosen) await show(name, facts);
  } catch (error) {
    if (mine === chosen) complain(error);
  } finally {
    if (mine === chosen) wait("");
  }
}

async function show(name, facts) {
  const truth = facts.truth && unpack(facts.truth.bits);
  const next = { name, facts, outline: truth && outlineOf(truth), prediction: null };
  const answer = await askPrediction(name);
  if (scene) await scene.show(volumeUrl(name), facts);
  shown = next;
  showFacts();
  showPrediction(answer);
  setSlice(startSlice());
  sayPrediction();
  if (answer.level !== threshold()) judge();
}

const threshold = () => $("threshold").valueAsNumber;

// The answer says which threshold it is for: the slider may have moved on.
async function askPrediction(name) {
  const level = threshold();
  return { ...(await ask(`${casePath(name)}/prediction?threshold=${level}`)), level };
}

// The slice with the most tumour, the true one first.
function startSlice() {
  const areas = shown.facts.truth?.areas ?? shown.prediction.areas;
  const largest = areas.indexOf(Math.max(...areas));
  return areas[largest] ? largest : Math.floor(areas.length / 2);
}

function showFacts() {
  const { name, facts } = shown;
  document.title = `${facts.name} · lggseg viewer`;
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  $("empty").hidden = Boolean(scene);
  $("answer").hidden = false;
  $("slice").max = facts.slices;
  $("slice").disabled = facts.slices < 2;
  for (const id of ["dice-figure", "dice-note", "truth-row", "truth-layer"]) $(id).hidden = !facts.truth;
  $("truth-volume").textContent = facts.truth ? size(sum(facts.truth.areas), null) : "";
  $("views").hidden = !facts.spacing;
  if (!facts.spacing) setPlanes("axial");
  const missing = facts.missing.length
    ? [`Without ${facts.missing.join(" and ")}: FLAIR stands in.`] : [];
  const notes = [...missing, ...facts.notes];
  $("note").hidden = !notes.length;
  $("note").textContent = notes.join("\n");
  const tiff = maskLink(name, "tif", threshold());
  $("units").textContent = facts.spacing
    ? `NIfTI: on the voxels of your FLAIR.${tiff ? " TIFF: on the slices shown here." : ""}`
    : "The distance between slices is not known, so NIfTI gets voxels of 1 × 1 × 1.";
  showPatient(name);
}

function showPrediction(answer) {
  shown.prediction = { ...answer, mask: unpack(answer.bits) };
  $("dice").textContent = answer.dice === null ? "" : answer.dice.toFixed(3);
  $("expected").textContent = answer.expected_dice.toFixed(3);
  $("volume").textContent = size(answer.voxels, answer.ml);
  $("flags").replaceChildren(...answer.flags.map((flag) => {
    const item = document.createElement("li");
    item.textContent = FLAGS[flag] ?? flag;
    return item;
  }));
  for (const [id, kind] of [["save-tiff", "tif"], ["save-nifti", "nii.gz"]]) {
    const link = maskLink(shown.name, kind, answer.level);
    $(id).hidden = !link;
    Object.assign($(id), link ?? {});
  }
  drawMarks();
  drawAreas();
  describeSlice();
}

// The threshold

let asking = false, again = false;

// At most one question at a time; the last threshold is always asked for.
async function judge() {
  showLevel();
  again = true;
  if (asking || !shown) return;
  asking = true;
  try {
    while (again) {
      again = false;
      const { name } = shown;
      const answer = await askPrediction(name);
      if (name === shown.name) showPrediction(answer);
    }
    complain(null);
    sayPrediction();
  } catch (error) {
    complain(error);
  } finally {
    asking = false;
  }
}

function sayPrediction() {
  const { dice, voxels, ml, level } = shown.prediction;
  const agreement = dice === null ? "" : `Dice ${dice.toFixed(3)}, `;
  say(`Threshold ${level.toFixed(2)}: ${agreement}${size(voxels, ml)}.`);
}

function showLevel() {
  $("level").textContent = threshold().toFixed(2);
  $("reset").hidden = $("threshold").value === $("reset").value;
}

// Images

function drawMarks() {
  if (!scene) return;
  const { prediction, outline } = shown;
  scene.setMarks(
    $("show-prediction").checked ? prediction.mask : null,
    $("show-truth").checked ? outline : null,
  );
}

// Tumour pixels of each slice: bars for the prediction, a line of steps for the truth.
function drawAreas() {
  const { prediction, facts } = shown;
  const truth = facts.truth?.areas ?? [];
  const most = Math.max(1, ...prediction.areas, ...truth);
  const bar = (area, slice) => `M${slice + 0.12} 1v${-area / most}h.76v${area / most}z`;
  const step = (area, slice) => `V${1 - area / most}H${slice + 1}`;
  const line = truth.length ? `M0 1${truth.map(step).join("")}V1` : "";
  $("areas").setAttribute("viewBox", `0 0 ${facts.slices} 1`);
  $("areas").style.setProperty("--slices", Math.max(2, facts.slices));
  $("areas").innerHTML =
    `<path class="prediction" d="${prediction.areas.map(bar).join("")}"/>` +
    `<path class="truth" d="${line}"/>`;
}

const slice = () => $("slice").valueAsNumber - 1;

function setSlice(number) {
  $("slice").value = number + 1;
  scene?.setSlice(slice());
  describeSlice();
}

function describeSlice() {
  const sequence = SEQUENCES[sequenceNumber()];
  const where = `slice ${slice() + 1} of ${shown.facts.slices}`;
  const areas = [`predicted ${count(shown.prediction.areas[slice()])} pixels`];
  if (shown.facts.truth) areas.push(`true ${count(shown.facts.truth.areas[slice()])} pixels`);
  $("corner").textContent = `${sequence} · ${where}`;
  $("canvas").setAttribute("aria-label", `${sequence}, ${where}: ${areas.join(", ")}`);
  $("slice").setAttribute("aria-valuetext", `${where}, ${areas.join(", ")}`);
}

const sequenceNumber = () =>
  Number(document.querySelector("input[name=sequence]:checked").value);

function setSequence(number) {
  document.querySelector(`input[name=sequence][value="${number}"]`).checked = true;
  scene?.setSequence(number);
  if (shown) describeSlice();
}

function setPlanes(view) {
  document.querySelector(`input[name=view][value=${view}]`).checked = true;
  scene?.setPlanes(view === "planes");
}

function toggle(id) {
  $(id).checked = !$(id).checked;
  drawMarks();
}

// Only on the image itself, so that no letter does anything where one may want to type.
const KEYS = {
  ArrowUp: () => setSlice(slice() + 1),
  ArrowDown: () => setSlice(slice() - 1),
  ArrowRight: () => setSlice(slice() + 1),
  ArrowLeft: () => setSlice(slice() - 1),
  PageUp: () => setSlice(slice() + 5),
  PageDown: () => setSlice(slice() - 5),
  Home: () => setSlice(0),
  End: () => setSlice(shown.facts.slices - 1),
  1: () => setSequence(1),
  2: () => setSequence(0),
  3: () => setSequence(2),
  p: () => toggle("show-prediction"),
  t: () => toggle("show-truth"),
};

function press(event) {
  const action = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (!action || !shown || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  action();
}

// Patients

function showPatient(name) {
  $("simulated").hidden = !(listed.simulated && listed.patients.includes(name));
  const options = [...$("patient").options];
  $("patient").disabled = !options.length;
  $("patient").value = name;
  const place = options.findIndex((option) => option.value === name);
  $("previous").disabled = place <= 0;
  $("next").disabled = place < 0 || place >= options.length - 1;
}

function step(distance) {
  const option = $("patient").options[$("patient").selectedIndex + distance];
  if (!option) return;
  showPatient(option.value);
  open(option.value);
}

// Own files

async function take(files) {
  if (!files.length) return;
  const images = known(files);
  const entries = needRoles(images)
    ? await chooseRoles(images)
    : images.map((file) => ({ file, role: "" }));
  if (!entries.length) return;
  const mine = ++chosen;
  complain(null);
  wait("Reading and segmenting your files …");
  try {
    const { case: name } = await send(entries, (done, all) => {
      if (mine === chosen) wait(`Segmented ${done} of ${all} slices …`);
    });
    $("patient").add(new Option(`${entries[0].file.name} (yours)`, name));
    if (mine === chosen) await open(name);
  } catch (error) {
    if (mine === chosen) complain(error);
  } finally {
    if (mine === chosen) wait("");
  }
}

// The dialog that asks which sequence each NIfTI file is; nothing when it is cancelled.
async function chooseRoles(files) {
  const rows = files.map((file) => {
    const row = document.createElement("li"), label = document.createElement("label");
    const select = document.createElement("select");
    for (const role of [...ROLES, ""]) select.add(new Option(role || "leave out", role));
    select.value = guessRole(file.name);
    label.append(file.name, select);
    row.append(label);
    return { file, row, select };
  });
  $("role-list").replaceChildren(...rows.map(({ row }) => row));
  $("roles").returnValue = "";
  $("roles").showModal();
  await new Promise((done) => $("roles").addEventListener("close", done, { once: true }));
  if ($("roles").returnValue !== "send") return [];
  return rows.map(({ file, select }) => ({ file, role: select.value })).filter(({ role }) => role);
}

// Start

function listen() {
  $("patient").addEventListener("change", () => open($("patient").value));
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("threshold").addEventListener("input", judge);
  $("reset").addEventListener("click", () => {
    $("threshold").value = $("reset").value;
    $("threshold").focus();
    judge();
  });
  $("slice").addEventListener("input", () => setSlice(slice()));
  $("sequences").addEventListener("change", () => setSequence(sequenceNumber()));
  $("views").addEventListener("change", (event) => setPlanes(event.target.value));
  for (const id of ["show-prediction", "show-truth"]) $(id).addEventListener("change", drawMarks);
  $("canvas").addEventListener("keydown", press);
  $("files").addEventListener("change", async () => {
    const files = [...$("files").files];
    $("files").value = ""; // the same files may be chosen again
    await take(files);
  });
  listenToDrops();
}

function listenToDrops() {
  const mark = (on) => document.body.classList.toggle("dropping", on);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(event.dataTransfer.types.includes("Files"));
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? mark(false));
  addEventListener("drop", async (event) => {
    event.preventDefault();
    mark(false);
    await take(await droppedFiles(event.dataTransfer));
  });
}

async function start() {
  listen();
  try {
    scene = await createScene($("canvas"), (number) => {
      if (shown && number !== slice()) setSlice(number);
    });
  } catch {
    $("empty").textContent = "No image: this browser has no WebGL 2. The numbers are right.";
  }
  listed = await ask("patients");
  const { patients, model } = listed;
  $("model").textContent = model.name;
  $("threshold").value = $("reset").value = model.threshold;
  $("reset").textContent = `Back to ${model.threshold.toFixed(2)}`;
  showLevel();
  for (const name of patients) $("patient").add(new Option(name, name));
  const wanted = await wantedCase(patients);
  const first = wanted ?? patients[0];
  $("empty").hidden = Boolean(first && scene);
  showPatient(first);
  if (first) await open(first);
}

// The case that the address names: a patient, or files that were sent before the page was loaded
// anew. Nothing where there is none, or where the address was cut or typed wrongly.
async function wantedCase(patients) {
  let name;
  try {
    name = decodeURIComponent(location.hash.slice(1));
  } catch {
    return undefined;
  }
  if (!name || patients.includes(name)) return name || undefined;
  try {
    const facts = await ask(casePath(name));
    $("patient").add(new Option(`${facts.name} (yours)`, name));
    return name;
  } catch {
    return undefined; // the server keeps the last few cases only
  }
}

start().catch(complain);

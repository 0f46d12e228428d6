// What the viewer's page asks, answered in the browser: the same questions as api.js sends to the
// server of `lggseg view`. Nothing is sent anywhere; the page's policy forbids it.

import {
  BATCH, SIZE, backgroundAndScale, channels, dropSmallComponents, expectedDice, finite, gridOf, maskOnScan, onGrid, overlap,
  percentile, pixelsOf, qualityFlags, sameGrid, sliceStride, turnOf, turned, voxelSizes,
} from "./pipeline.js";
import { ROLES } from "./roles.js";
import { Refused, determinant, inflate, kindOf, readNifti, readTiff, writeNifti } from "./scans.js";

const CHANNELS = [ROLES[1], ROLES[0], ROLES[2]];
const LEAST_OVERLAP = 0.5;
const MAX_SLICES = 320;
const NIFTI = /\.nii(\.gz)?$/i, TIFF = /\.tiff?$/i;
const cases = new Map();
const card = JSON.parse(document.getElementById("inside-card").textContent);

// The network

let worker = null;
let engine = "wasm"; // or "webgpu", until it fails or differs
const waiting = new Map();

async function embedded(id) {
  const packed = Uint8Array.from(atob(document.getElementById(`inside-${id}`).textContent), (l) => l.charCodeAt(0));
  return inflate(packed, "gzip", 2 ** 28, "this page");
}

function tell(message, transfer) {
  const number = waiting.size ? Math.max(...waiting.keys()) + 1 : 1;
  return new Promise((done, fail) => {
    waiting.set(number, { done, fail });
    worker.postMessage({ number, ...message }, transfer);
  });
}

async function startWorker() {
  const [code, loader, wasm, model] = await Promise.all(
    ["ort", "ort-loader", "ort-wasm", "model"].map(embedded));
  const run = document.getElementById("inside-worker").textContent;
  worker = new Worker(URL.createObjectURL(new Blob([code, "\n", run], { type: "text/javascript" })));
  worker.onmessage = ({ data: { number, answer, error } }) => {
    const { done, fail } = waiting.get(number);
    waiting.delete(number);
    if (error) fail(new Error(`The model cannot run in this browser: ${error}`));
    else done(answer);
  };
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  // A processor that plays a graphics card is slower than WebAssembly.
  const graphics = Boolean(adapter) && !adapter.info?.isFallbackAdapter;
  engine = await tell({ start: { model, wasm, loader, graphics } });
}

let started = null;
export const ready = () => (started ??= startWorker());

const MOST_DIFFERENT = 0.01;

// The probability of each pixel. What a graphics card computes is used if WebAssembly says the same of
// the slice with the most tumour.
async function probabilities(sequences, stride, progress) {
  await ready();
  const statistics = sequences.map(backgroundAndScale), area = SIZE * SIZE;
  const all = card.neighbours ? [...statistics, statistics[1], statistics[1]] : statistics;
  const [background, scale] = [0, 1].map((i) => Float32Array.from(all, (pair) => pair[i]));
  const number = sequences[1].length / area;
  const some = (from, to, by) => {
    const image = channels(sequences, card.neighbours, stride, from, to);
    const dims = [to - from, all.length, SIZE, SIZE];
    return tell({ run: { image, dims, background, scale, by } }, [image.buffer]);
  };
  const whole = async (by) => {
    const result = new Float32Array(number * area);
    for (let from = 0; from < number; from += BATCH) {
      const to = Math.min(from + BATCH, number);
      result.set(await some(from, to, by), from * area);
      progress(to, number);
    }
    return result;
  };
  if (engine === "webgpu") {
    try {
      const result = await whole(engine), areas = areasOf(result);
      const largest = areas.indexOf(Math.max(...areas)), sure = await some(largest, largest + 1, "wasm");
      const found = result.subarray(largest * area, (largest + 1) * area);
      if (sure.every((value, i) => Math.abs(value - found[i]) <= MOST_DIFFERENT)) return result;
    } catch {
      // such as too little memory on the card
    }
    engine = "wasm";
  }
  return whole(engine);
}

// Files

async function ofNiftis(entries) {
  const roles = entries.map(({ role }) => role || ROLES[0]);
  const known = roles.every((role) => CHANNELS.includes(role)) && roles.includes(ROLES[0]);
  if (!known || new Set(roles).size < roles.length)
    throw new Refused(first(entries), roles.join(", "), "one FLAIR, and at most one each of pre-contrast and post-contrast", "Say which file is what.");
  const images = {};
  for (const [i, { file, bytes }] of entries.entries()) images[roles[i]] = await readNifti(file.name, bytes);
  const flair = images.FLAIR, turn = turnOf(flair.affine), notes = [];
  const spacing = turn.map(({ axis }) => voxelSizes(flair.affine)[axis]);
  const start = turned(finite(flair.values), flair.shape, turn);
  if (start.edges[0] > MAX_SLICES)
    throw new Refused(flair.name, `${start.edges[0]} slices`, `at most ${MAX_SLICES}`, "Use lggseg predict, which has no such limit.");
  const grid = gridOf(start.values, start.edges, spacing), grey = {};
  for (const [role, image] of Object.entries(images)) {
    const placed = onFlair(role, image, flair, notes);
    const { values, edges } = turned(finite(placed.values), flair.shape, turn);
    grey[role] = pixelsOf(values, edges, grid);
    if (!grey[role]) throw new Refused(image.name, "hardly any voxel that differs from the others", "a head", "Give the scan.");
  }
  const missing = CHANNELS.filter((name) => !grey[name]);
  const sequences = CHANNELS.map((name) => grey[name] ?? grey.FLAIR);
  const { values: _, ...scan } = flair;
  return {
    name: flair.name.replace(NIFTI, ""), sequences, truth: null, missing, notes,
    spacing: [spacing[0], 240 / SIZE, 240 / SIZE], scan: { ...scan, turn, grid },
    voxelMl: Math.abs(determinant(flair.affine)) / 1000,
  };
}

function onFlair(role, image, flair, notes) {
  if (image === flair || sameGrid(image, flair)) return image;
  const share = overlap(image, flair);
  if (share < LEAST_OVERLAP)
    throw new Refused(image.name, `a scan that shows ${Math.round(100 * share)}% of the head in FLAIR`, "at least 50%, by the positions in both headers", "Check that both are of one patient and one session, or leave this one out.");
  const edges = voxelSizes(image.affine).map((edge) => Number(edge.toPrecision(3))).join(" × ");
  notes.push(`${role}: resampled from voxels of ${edges} mm onto FLAIR's, by the scans' positions.`);
  return onGrid(image, flair);
}

async function ofTiffs(entries) {
  const named = new Map(entries.map((entry) => [entry.file.name.replace(TIFF, ""), entry]));
  const masks = new Map(), images = new Map();
  for (const [stem, entry] of named)
    if (/_mask$/i.test(stem)) masks.set(stem.replace(/_mask$/i, ""), entry);
    else images.set(stem, entry);
  if (named.size < entries.length || !images.size)
    throw new Refused(first(entries), "a name twice, or masks alone", "slices by different names", DROP);
  const { name, stems } = inOrder([...images.keys()]);
  if (masks.size && (masks.size !== images.size || stems.some((stem) => !masks.has(stem))))
    throw new Refused(name, "an image or a mask alone", "a mask for each image, or none", DROP);
  const pages = [], truth = [];
  for (const stem of stems) {
    const { file, bytes } = images.get(stem);
    pages.push(...(await readTiff(file.name, bytes, 3)));
    if (masks.size) truth.push(...(await readTiff(masks.get(stem).file.name, masks.get(stem).bytes, 1)));
  }
  if (pages.length > MAX_SLICES) throw new Refused(name, `${pages.length} slices`, `at most ${MAX_SLICES}`, "Use lggseg predict.");
  const sequences = [0, 1, 2].map((band) => {
    const pixels = new Uint8Array(pages.length * SIZE * SIZE);
    pages.forEach((page, slice) => {
      for (let i = 0; i < SIZE * SIZE; i++) pixels[slice * SIZE * SIZE + i] = page[3 * i + band];
    });
    return pixels;
  });
  return {
    name, sequences, missing: [], notes: [], spacing: null, scan: null, voxelMl: null,
    truth: truth.length ? Uint8Array.from(truth.flatMap((page) => Array.from(page, (pixel) => Number(pixel > 0)))) : null,
  };
}

function inOrder(stems) {
  if (stems.length === 1) return { name: stems[0], stems };
  const found = stems.map((stem) => /^(.*)_(\d{1,6})$/s.exec(stem));
  const patients = new Set(found.map((match) => match?.[1] ?? ""));
  if (patients.size > 1 || patients.has(""))
    throw new Refused(stems[0], `slices of ${patients.size} patients, or names without a number`, "slices NAME_1.tif, NAME_2.tif, …", DROP);
  const numbered = found.map((match, i) => [Number(match[2]), stems[i]]).sort(([a], [b]) => a - b);
  const numbers = numbered.map(([number]) => number);
  if (new Set(numbers).size < stems.length || numbers.at(-1) - numbers[0] >= stems.length)
    throw new Refused([...patients][0], `${stems.length} slices with numbers from ${numbers[0]} to ${numbers.at(-1)}`, "each number once, without a gap", DROP);
  return { name: [...patients][0], stems: numbered.map(([, stem]) => stem) };
}

const DROP = "Drop one volume, or all slices of one patient, with all masks or none.";
const first = (entries) => entries[0].file.name + (entries.length > 1 ? ` and ${entries.length - 1} more` : "");

async function read(entries) {
  const kinds = new Set(entries.map(({ file }) => (TIFF.test(file.name) ? "TIFF" : NIFTI.test(file.name) ? "NIfTI" : "other")));
  for (const entry of entries) entry.bytes = new Uint8Array(await entry.file.arrayBuffer());
  if (kinds.size === 1 && kinds.has("TIFF")) return ofTiffs(entries);
  if (kinds.size === 1 && kinds.has("NIfTI")) return ofNiftis(entries);
  const strange = entries.find(({ file }) => !TIFF.test(file.name) && !NIFTI.test(file.name));
  if (!strange) throw new Refused(first(entries), "NIfTI and TIFF", "files of one kind", "Drop files of one kind.");
  const kind = kindOf(strange.bytes);
  const action = kind === "a DICOM file"
    ? "Give the study's folder to `lggseg predict` or `lggseg view`, or convert it by dcm2niix."
    : "Convert scans to NIfTI (3D Slicer, or SimpleITK: `WriteImage(ReadImage('scan.mha'), 'scan.nii.gz')`), and save pictures as TIFF.";
  throw new Refused(strange.file.name, kind, "TIFF or NIfTI (.nii, .nii.gz)", action);
}

// Answers

export async function send(entries, progress) {
  const study = await read(entries);
  const probability = await probabilities(study.sequences, study.spacing ? sliceStride(study.spacing[0]) : 1, progress);
  document.documentElement.dataset.engine = engine;
  const name = `sent-${cases.size + 1}`;
  cases.clear(); // one patient at a time stays in memory
  cases.set(name, { study, probability });
  return { case: name };
}

const areasOf = (mask) => Array.from({ length: mask.length / (SIZE * SIZE) }, (_, slice) =>
  mask.subarray(slice * SIZE * SIZE, (slice + 1) * SIZE * SIZE).reduce((sum, inside) => sum + inside, 0));

function maskAt({ probability }, threshold) {
  const mask = Uint8Array.from(probability, (value) => Number(value >= Math.fround(threshold)));
  return dropSmallComponents(mask, card.min_component_fraction);
}

function facts({ study }) {
  const bright = study.sequences.map((pixels) => {
    const some = pixels.filter((_, i) => !(i & 1) && !((i >> 8) & 1)).sort();
    return Math.max(1, percentile(some, 99.8));
  });
  const { name, spacing, missing, notes, truth } = study;
  const slices = study.sequences[1].length / (SIZE * SIZE);
  return { name, slices, spacing, missing, notes, bright, truth: truth && { bits: truth, areas: areasOf(truth) } };
}

function judged(one, threshold) {
  const mask = maskAt(one, threshold), { study, probability } = one;
  const count = (pixels) => pixels.reduce((sum, pixel) => sum + pixel, 0);
  const voxels = count(study.scan ? onScan(study.scan, mask) : mask);
  const both = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
  const expected = expectedDice(probability, card.quality);
  const sizes = study.truth ? count(study.truth) + count(mask) : 0;
  return {
    bits: mask, areas: areasOf(mask), voxels, ml: study.scan ? voxels * study.voxelMl : null,
    expected_dice: expected,
    dice: study.truth ? (sizes ? (2 * both(study.truth, mask)) / sizes : 1) : null,
    flags: qualityFlags(study.sequences, mask, expected < card.quality.review_below),
  };
}

const onScan = (scan, mask) => maskOnScan(mask, scan.shape, scan.turn, scan.grid);

export async function ask(path) {
  if (path === "patients") {
    return { patients: [], simulated: false, model: { name: card.name, threshold: card.threshold } };
  }
  const [, name, query] = /^cases\/([^/]+)(?:\/prediction\?threshold=(.*))?$/.exec(path);
  const one = cases.get(decodeURIComponent(name));
  if (!one) throw new Error("The files of an earlier visit are gone. Drop them again.");
  return query === undefined ? facts(one) : judged(one, Number(query));
}

export const casePath = (name) => `cases/${encodeURIComponent(name)}`;
export const unpack = (mask) => mask;

let urls = { volume: "", mask: "" };

function urlOf(kind, bytes, type) {
  if (urls[kind]) URL.revokeObjectURL(urls[kind]);
  urls[kind] = URL.createObjectURL(new Blob([bytes], { type }));
  return urls[kind];
}

// A NIfTI file of the three sequences, as the server's volume.nii.
export function volumeUrl(name) {
  const { study } = cases.get(name), length = study.sequences[0].length;
  const voxels = new Uint8Array(3 * length);
  study.sequences.forEach((pixels, i) => voxels.set(pixels, i * length));
  const dims = [SIZE, SIZE, length / (SIZE * SIZE), 3];
  return urlOf("volume", writeNifti(voxels, { dims, spacing: study.spacing }), "application/octet-stream");
}

// The mask to save: NIfTI on the voxels of the scan, or on the model's own without one.
export function maskLink(name, kind, level) {
  if (kind !== "nii.gz") return null;
  const one = cases.get(name), mask = maskAt(one, level), { scan, spacing } = one.study;
  const dims = [SIZE, SIZE, mask.length / (SIZE * SIZE)];
  const bytes = scan ? writeNifti(onScan(scan, mask), scan) : writeNifti(mask, { dims, spacing });
  return { href: urlOf("mask", bytes, "application/octet-stream"), download: `${one.study.name}_mask.nii` };
}

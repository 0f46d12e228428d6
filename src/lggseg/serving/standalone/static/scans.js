// Files that are dropped on the page: NIfTI and TIFF, checked before they are decoded. What is
// refused ends in a sentence that names the file, as lggseg/data does in Python.

import { SIZE, voxelSizes } from "./pipeline.js";

const MAX_VOXELS = 2 ** 25;
const TYPES = {
  2: ["getUint8", 1], 4: ["getInt16", 2], 8: ["getInt32", 4], 16: ["getFloat32", 4],
  64: ["getFloat64", 8], 256: ["getInt8", 1], 512: ["getUint16", 2], 768: ["getUint32", 4],
  1024: ["getBigInt64", 8], 1280: ["getBigUint64", 8],
};
const KINDS = [
  ["PK\x03\x04", "a zip archive"], ["\x89PNG", "a PNG picture"], ["\xff\xd8\xff", "a JPEG picture"],
  ["II*\0", "a TIFF file"], ["MM\0*", "a TIFF file"], ["\x89HDF", "an HDF5 file"],
  ["NRRD", "an NRRD file"], ["ObjectType", "a MetaImage file"], ["%PDF", "a PDF file"], ["<", "a page of HTML or XML"],
  ["\x93NUMPY", "an npy file"],
];

export class Refused extends Error {
  constructor(name, found, expected, action) {
    super(`${name}: found ${found}; expected ${expected}. ${action}`);
  }
}

const AGAIN = "Download or copy the file again: it was cut off or damaged.";
const SCAN = "one scan in NIfTI (.nii, .nii.gz)";

const text = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));

export function kindOf(bytes) {
  if (!bytes.length) return "an empty file";
  if (text(bytes, 128, 132) === "DICM") return "a DICOM file";
  const start = text(bytes, 0, 12);
  return KINDS.find(([first]) => start.startsWith(first))?.[1] ?? "an unknown kind of file";
}

// At most so many bytes of what gzip or zlib holds. A checksum that differs is an error.
export async function inflate(bytes, format, most, name) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format));
  const reader = stream.getReader(), parts = [];
  let length = 0;
  try {
    for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
      parts.push(value);
      length += value.length;
      if (length > most) break;
    }
  } catch {
    throw new Refused(name, "no readable NIfTI (damaged compression)", SCAN, AGAIN);
  }
  if (length > most) {
    await reader.cancel();
    throw new Refused(name, `more than ${most} bytes`, "a smaller scan", "Use lggseg predict.");
  }
  const result = new Uint8Array(length);
  parts.reduce((place, part) => (result.set(part, place), place + part.length), 0);
  return result;
}

// NIfTI

export async function readNifti(name, file) {
  let bytes = file;
  if (bytes[0] === 0x1f && bytes[1] === 0x8b)
    bytes = await inflate(bytes, "gzip", 8 * MAX_VOXELS + 2 ** 24, name);
  const head = readHeader(name, bytes);
  const [method, size] = TYPES[head.type];
  const number = head.shape[0] * head.shape[1] * head.shape[2];
  if (bytes.length < head.start + number * size)
    throw new Refused(name, "no readable NIfTI (it was cut off)", SCAN, AGAIN);
  const view = new DataView(bytes.buffer, bytes.byteOffset + head.start);
  const values = new Float32Array(number);
  for (let i = 0; i < number; i++)
    values[i] = Number(view[method](i * size, head.little)) * head.slope + head.intercept;
  checkValues(name, values);
  return { name, ...head, values };
}

function checkValues(name, values) {
  let dark = Infinity, bright = -Infinity;
  for (const value of values) {
    if (value < dark) dark = value;
    if (value > bright && value < Infinity) bright = value;
  }
  if (!(bright > dark))
    throw new Refused(name, `hardly any voxel that is not ${dark}`, "a head", "Give the scan.");
  if (values.every((value) => value === dark || value === bright))
    throw new Refused(name, "two grey levels, as a mask has", "a scan", "Name the scan instead of its mask.");
}

// What a header says: shape, type, affine, where the voxels begin, and its own bytes.
function readHeader(name, bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const sizes = bytes.length >= 540 || bytes.length >= 348
    ? [true, false].map((little) => [view.getInt32(0, little), little]) : [];
  const [length, little] = sizes.find(([size]) => size === 348 || size === 540) ?? [0, true];
  const magic = length === 348 ? text(bytes, 344, 347) : length ? text(bytes, 4, 7) : "";
  if (!/^n[+i][12]$/.test(magic)) {
    if (length === 348)
      throw new Refused(name, "Analyze 7.5", SCAN, "It does not tell left from right: convert the scan anew from DICOM (dcm2niix).");
    const kind = kindOf(bytes);
    const action = kind === "a DICOM file" ? "Give the study's folder to `lggseg predict` or `lggseg view`, or convert it by dcm2niix." : "Give a NIfTI file.";
    throw new Refused(name, kind, SCAN, action);
  }
  if (magic[1] === "i")
    throw new Refused(name, "one half of a pair .hdr/.img", SCAN, "Put both into one file: `nib-convert`.");
  const fields = length === 348 ? fields1(view, little) : fields2(view, little);
  checkHeader(name, fields);
  return { ...fields, little, header: bytes.slice(0, length), version: length === 348 ? 1 : 2 };
}

function fields1(view, little) {
  const floats = (place, number) =>
    Array.from({ length: number }, (_, i) => view.getFloat32(place + 4 * i, little));
  const dims = Array.from({ length: 8 }, (_, i) => view.getInt16(40 + 2 * i, little));
  return facts(dims, view.getInt16(70, little), view.getFloat32(108, little), floats(112, 2),
    floats(76, 4), [view.getInt16(252, little), view.getInt16(254, little)],
    [...floats(256, 3), ...floats(268, 3)], floats(280, 12));
}

function fields2(view, little) {
  const doubles = (place, number) =>
    Array.from({ length: number }, (_, i) => view.getFloat64(place + 8 * i, little));
  const dims = Array.from({ length: 8 }, (_, i) => Number(view.getBigInt64(16 + 8 * i, little)));
  return facts(dims, view.getInt16(12, little), Number(view.getBigInt64(168, little)),
    doubles(176, 2), doubles(104, 4), [view.getInt32(344, little), view.getInt32(348, little)],
    doubles(352, 6), doubles(400, 12));
}

function facts(dims, type, start, [slope, intercept], pixdim, [qform, sform], quaternion, rows) {
  const scaled = Number.isFinite(slope) && slope !== 0;
  const affine = sform > 0
    ? [rows.slice(0, 4), rows.slice(4, 8), rows.slice(8), [0, 0, 0, 1]]
    : fromQuaternion(quaternion, pixdim);
  return {
    dims, shape: [1, 2, 3].map((i) => (i <= dims[0] ? dims[i] : 1)), type, start,
    slope: scaled ? slope : 1, intercept: scaled ? intercept : 0, affine, placed: qform > 0 || sform > 0,
  };
}

function fromQuaternion([b, c, d, x, y, z], [side, ...edges]) {
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d)), flip = side < 0 ? -1 : 1;
  const turn = [
    [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
    [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
    [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
  ];
  const size = [edges[0], edges[1], edges[2] * flip];
  return [...turn.map((row, i) => [...row.map((v, j) => v * size[j]), [x, y, z][i]]), [0, 0, 0, 1]];
}

function checkHeader(name, { dims, shape, type, start, affine, placed }) {
  const more = dims.slice(4, dims[0] + 1).some((edge) => edge !== 1);
  if (dims[0] < 2 || dims[0] > 7 || more || shape.some((edge) => edge < 1))
    throw new Refused(name, `the shape (${dims.slice(1, dims[0] + 1).join(", ")})`, "one scan of three dimensions", "Give one 3-D volume of it.");
  if (!TYPES[type]) throw new Refused(name, `voxels of type ${type}`, "grey levels", "Give a NIfTI file.");
  if (shape[0] * shape[1] * shape[2] > MAX_VOXELS || !(start >= 352) || start > 2 ** 24)
    throw new Refused(name, `${shape.join(" × ")} voxels from byte ${start} on`, `at most ${MAX_VOXELS}`, "Use lggseg predict for larger files.");
  if (!placed)
    throw new Refused(name, "no orientation in the header", "an sform or a qform, which say what is up and what is left", "Convert the scan anew from DICOM (dcm2niix).");
  const sizes = voxelSizes(affine);
  if (!sizes.every((size) => size >= 0.1 && size <= 20))
    throw new Refused(name, `voxels of ${sizes.map((size) => Number(size.toPrecision(4))).join(" × ")} mm`, "edges of 0.1 to 20 mm", "Correct the affine; its unit must be millimetres.");
  if (Math.abs(determinant(affine)) < 0.5 * sizes[0] * sizes[1] * sizes[2])
    throw new Refused(name, "axes that hardly differ", "edges at nearly right angles", "Correct the affine.");
}

export const determinant = ([[a, b, c], [d, e, f], [g, h, i]]) =>
  a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);

// Bytes of a NIfTI file with 8-bit voxels: a scan's own header, or one of these edges and affine.
export function writeNifti(voxels, { header, version, little, dims, spacing }) {
  const head = header ? header.slice() : newHeader(dims, spacing);
  const view = new DataView(head.buffer), order = header ? little : true;
  if (version === 2) {
    view.setInt16(12, 2, order);
    view.setInt16(14, 8, order);
    view.setBigInt64(168, 544n, order);
    for (const [place, value] of [[176, 1], [184, 0], [192, 1], [200, 0]]) view.setFloat64(place, value, order);
  } else {
    view.setInt16(70, 2, order);
    view.setInt16(72, 8, order);
    for (const [place, value] of [[108, 352], [112, 1], [116, 0], [124, 1], [128, 0]]) view.setFloat32(place, value, order);
  }
  const result = new Uint8Array(head.length + 4 + voxels.length);
  result.set(head);
  result.set(voxels, head.length + 4);
  return result;
}

// Of the model's own slices: columns go left, rows back, slices up.
function newHeader(dims, spacing) {
  const head = new Uint8Array(348), view = new DataView(head.buffer);
  const [along, down, across] = spacing ?? [1, 1, 1];
  view.setInt32(0, 348, true);
  [dims.length, ...dims, 1, 1, 1].slice(0, 8).forEach((edge, i) => view.setInt16(40 + 2 * i, edge, true));
  [1, across, down, along, 1].forEach((edge, i) => view.setFloat32(76 + 4 * i, edge, true));
  head[123] = spacing ? 2 : 0; // millimetres
  view.setInt16(254, 2, true); // sform: aligned
  [-across, 0, 0, 0, 0, -down, 0, 0, 0, 0, along, 0].forEach((x, i) => view.setFloat32(280 + 4 * i, x, true));
  head.set([0x6e, 0x2b, 0x31], 344);
  return head;
}

// TIFF, as Kaggle's: pages of 256 × 256, red, green, blue or grey, a byte each.

export async function readTiff(name, bytes, bands) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const order = bytes.length > 8 && { II: true, MM: false }[text(bytes, 0, 2)];
  const broken = (why) => new Refused(name, `a broken TIFF (${why})`, "a whole file", AGAIN);
  if (order === undefined || order === false && text(bytes, 0, 2) !== "MM" || view.getUint16(2, order) !== 42)
    throw new Refused(name, kindOf(bytes), "a TIFF file", "Save it as TIFF without BigTIFF.");
  const pages = [];
  try {
    for (let place = view.getUint32(4, order); place && pages.length < 1024; ) {
      const number = view.getUint16(place, order), tags = {};
      for (let i = 0; i < number; i++) {
        const at = place + 2 + 12 * i;
        tags[view.getUint16(at, order)] = numbers(view, at, order);
      }
      pages.push(await readPage(name, bytes, tags, bands));
      place = view.getUint32(place + 2 + 12 * number, order);
    }
  } catch (error) {
    throw error instanceof RangeError ? broken("it was cut off") : error;
  }
  return pages;
}

function numbers(view, at, order) {
  const type = view.getUint16(at + 2, order), count = view.getUint32(at + 4, order);
  const size = { 1: 1, 3: 2, 4: 4 }[type];
  if (!size || count > 100_000) return [];
  const start = size * count <= 4 ? at + 8 : view.getUint32(at + 8, order);
  const read = { 1: "getUint8", 2: "getUint16", 4: "getUint32" }[size];
  return Array.from({ length: count }, (_, i) => view[read](start + size * i, order));
}

async function readPage(name, bytes, tags, bands) {
  const tag = (number, otherwise) => tags[number]?.[0] ?? otherwise;
  const width = tag(256), height = tag(257), samples = tag(277, 1);
  const bits = tags[258] ?? [1], compression = tag(259, 1);
  if (width !== SIZE || height !== SIZE || samples !== bands || bits.some((bit) => bit !== 8))
    throw new Refused(name, `a page of ${width} × ${height} × ${samples}, ${bits[0]} bits`, `${SIZE} × ${SIZE} × ${bands}, 8 bits`, "Resample the slices to that size.");
  if (![1, 8, 32946].includes(compression) || tag(284, 1) !== 1 || tag(317, 1) !== 1 || tags[322])
    throw new Refused(name, `compression ${compression}, tiles or planes`, "plain or deflated strips", "Save it as plain TIFF, or use lggseg predict.");
  const page = new Uint8Array(SIZE * SIZE * bands);
  let place = 0;
  for (const [i, start] of (tags[273] ?? []).entries()) {
    let strip = bytes.subarray(start, start + (tags[279]?.[i] ?? 0));
    if (compression !== 1) strip = await inflate(strip, "deflate", page.length, name);
    if (place + strip.length > page.length) throw new RangeError();
    page.set(strip, place);
    place += strip.length;
  }
  if (place < page.length) throw new RangeError();
  return page;
}

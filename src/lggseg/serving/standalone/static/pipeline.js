// The arithmetic of lggseg/preprocessing and lggseg/data/nifti.py in JavaScript: from a scan to the
// model's volume, from probability to mask, and back on the scan's voxels. This file alone repeats
// what Python does; tests compare both on the same arrays.

export const SIZE = 256;
const PIXEL = 240 / SIZE; // millimetres
const SLICE = 4.5; // millimetres between slices of the training data
const BRIGHT = 165;
const BLANK = 15;
export const BATCH = 16; // slices that the network sees at once

// Matrices of 4 × 4, row by row

export function multiply(a, b) {
  return a.map((row) => b[0].map((_, j) => row.reduce((sum, x, k) => sum + x * b[k][j], 0)));
}

export function invert(matrix) {
  const n = matrix.length;
  const rows = matrix.map((row, i) => [...row, ...row.map((_, j) => Number(i === j))]);
  for (let i = 0; i < n; i++) {
    let best = i;
    for (let r = i + 1; r < n; r++) if (Math.abs(rows[r][i]) > Math.abs(rows[best][i])) best = r;
    [rows[i], rows[best]] = [rows[best], rows[i]];
    const pivot = rows[i][i];
    rows[i] = rows[i].map((x) => x / pivot);
    for (let r = 0; r < n; r++) {
      if (r === i) continue;
      const factor = rows[r][i];
      rows[r] = rows[r].map((x, j) => x - factor * rows[i][j]);
    }
  }
  return rows.map((row) => row.slice(n));
}

const transpose = (matrix) => matrix[0].map((_, j) => matrix.map((row) => row[j]));

export const voxelSizes = (affine) =>
  [0, 1, 2].map((j) => Math.hypot(affine[0][j], affine[1][j], affine[2][j]));

// Orientation: which axis of the file becomes slices (up), rows (back) and columns (left), and
// whether it is read backwards; as nibabel's io_orientation.

export function turnOf(affine) {
  const sizes = voxelSizes(affine);
  let nearest = [0, 1, 2].map((i) => [0, 1, 2].map((j) => affine[i][j] / sizes[j]));
  // The nearest axes at right angles, by Newton's iteration for the polar decomposition.
  for (let step = 0; step < 30; step++) {
    const other = transpose(invert(nearest));
    nearest = nearest.map((row, i) => row.map((x, j) => (x + other[i][j]) / 2));
  }
  const axes = [];
  for (let j = 0; j < 3; j++) {
    const sizesOf = nearest.map((row) => Math.abs(row[j]));
    const world = sizesOf.indexOf(Math.max(...sizesOf));
    axes.push({ world, sign: Math.sign(nearest[world][j]) });
    nearest[world] = [0, 0, 0];
  }
  // Slices go up (+z), rows back (-y), columns left (-x).
  return [[2, 1], [1, -1], [0, -1]].map(([world, sign]) => {
    const axis = axes.findIndex((one) => one.world === world);
    return { axis, back: axes[axis].sign !== sign };
  });
}

// Where voxel (slice, row, column) lies in the file: the first place and the step of each axis.
function steps(shape, turn) {
  const strides = [1, shape[0], shape[0] * shape[1]];
  const edges = turn.map(({ axis }) => shape[axis]);
  const step = turn.map(({ axis, back }) => (back ? -1 : 1) * strides[axis]);
  const first = turn.reduce(
    (sum, { axis, back }) => sum + (back ? (shape[axis] - 1) * strides[axis] : 0), 0);
  return { edges, step, first };
}

export function turned(values, shape, turn) {
  const { edges, step, first } = steps(shape, turn);
  const result = new Float32Array(values.length);
  let place = 0;
  for (let s = 0; s < edges[0]; s++)
    for (let r = 0; r < edges[1]; r++) {
      let from = first + s * step[0] + r * step[1];
      for (let c = 0; c < edges[2]; c++, from += step[2]) result[place++] = values[from];
    }
  return { values: result, edges };
}

function turnedBack(mask, shape, turn) {
  const { edges, step, first } = steps(shape, turn);
  const result = new Uint8Array(mask.length);
  let place = 0;
  for (let s = 0; s < edges[0]; s++)
    for (let r = 0; r < edges[1]; r++) {
      let to = first + s * step[0] + r * step[1];
      for (let c = 0; c < edges[2]; c++, to += step[2]) result[to] = mask[place++];
    }
  return result;
}

// NaN and infinity become the darkest value.
export function finite(values) {
  let dark = Infinity, all = true;
  for (const value of values)
    if (Number.isFinite(value)) dark = Math.min(dark, value);
    else all = false;
  if (all) return values;
  if (dark === Infinity) dark = 0;
  return values.map((value) => (Number.isFinite(value) ? value : dark));
}

// Smoothing along one axis as scipy.ndimage.gaussian_filter1d: mirrored edges, four deviations.
export function smooth(values, edges, axis, sigma) {
  if (sigma <= 1e-15) return values;
  const radius = Math.floor(4 * sigma + 0.5), length = edges[axis];
  let weights = Array.from({ length: 2 * radius + 1 }, (_, i) =>
    Math.exp((-0.5 / (sigma * sigma)) * (i - radius) ** 2));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  weights = weights.map((weight) => weight / sum);
  const stride = edges.slice(axis + 1).reduce((product, edge) => product * edge, 1);
  const result = new Float32Array(values.length), line = new Float64Array(length + 2 * radius);
  const mirrored = Array.from(line, (_, i) => {
    const place = (((i - radius) % (2 * length)) + 2 * length) % (2 * length);
    return place < length ? place : 2 * length - 1 - place;
  });
  for (let start = 0; start < values.length; start += stride * length)
    for (let inner = 0; inner < stride; inner++) {
      const first = start + inner;
      for (let i = 0; i < line.length; i++) line[i] = values[first + mirrored[i] * stride];
      for (let i = 0; i < length; i++) {
        let total = 0;
        for (let k = 0; k < weights.length; k++) total += weights[k] * line[i + k];
        result[first + i * stride] = total;
      }
    }
  return result;
}

// The model's pixels in a turned scan: pixel i is voxel zoom * i + offset, as resampling.Grid.

export function gridOf(values, edges, spacing) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const sums = [0, 0, 0];
  let count = 0, place = 0;
  for (let s = 0; s < edges[0]; s++)
    for (let r = 0; r < edges[1]; r++)
      for (let c = 0; c < edges[2]; c++)
        if (values[place++] >= mean) {
          sums[0] += s;
          sums[1] += r;
          sums[2] += c;
          count++;
        }
  const zoom = [1, PIXEL / spacing[1], PIXEL / spacing[2]];
  const offset = zoom.map((step, axis) => evenRound(sums[axis] / count - (step * (SIZE - 1)) / 2));
  offset[0] = 0;
  return { zoom, offset };
}

const evenRound = (x) => {
  const near = Math.round(x);
  return Math.abs(x % 1) === 0.5 && near % 2 ? near - 1 : near;
};

function samples(zoom, offset, number, edge) {
  return Array.from({ length: number }, (_, i) => {
    const place = (i + offset / zoom) * zoom, low = Math.floor(place);
    const inside = place >= 0 && place <= edge - 1;
    return { inside, low, high: Math.min(low + 1, edge - 1), part: place - low };
  });
}

// A turned, finite sequence as grey levels: Uint8Array of slices × 256 × 256, or null where it
// shows nothing.
export function pixelsOf(values, edges, { zoom, offset }) {
  let smoothed = values;
  for (const axis of [1, 2])
    smoothed = smooth(smoothed, edges, axis, Math.max(zoom[axis] - 1, 0) / 2);
  const air = values.reduce((least, value) => Math.min(least, value), Infinity);
  const rows = samples(zoom[1], offset[1], SIZE, edges[1]);
  const columns = samples(zoom[2], offset[2], SIZE, edges[2]);
  const pixels = new Float32Array(edges[0] * SIZE * SIZE).fill(air);
  for (let s = 0; s < edges[0]; s++)
    for (let r = 0; r < SIZE; r++) {
      const row = rows[r];
      if (!row.inside) continue;
      const start = s * edges[1] * edges[2];
      const upper = start + row.low * edges[2], lower = start + row.high * edges[2];
      const to = (s * SIZE + r) * SIZE;
      for (let c = 0; c < SIZE; c++) {
        const { inside, low, high, part } = columns[c];
        if (!inside) continue;
        const above = smoothed[upper + low] * (1 - part) + smoothed[upper + high] * part;
        const below = smoothed[lower + low] * (1 - part) + smoothed[lower + high] * part;
        pixels[to + c] = above * (1 - row.part) + below * row.part;
      }
    }
  const sorted = pixels.slice().sort();
  const dark = percentile(sorted, 0.1), bright = percentile(sorted, 99.9);
  if (!(bright > dark)) return null;
  return Uint8Array.from(pixels, (value) =>
    evenRound(Math.min(Math.max(((value - dark) / (bright - dark)) * BRIGHT, 0), 255)));
}

export function percentile(sorted, share) {
  const place = (share / 100) * (sorted.length - 1), low = Math.floor(place);
  const next = sorted[Math.min(low + 1, sorted.length - 1)];
  return sorted[low] + (next - sorted[low]) * (place - low);
}

export const sliceStride = (spacing) => Math.max(1, evenRound(SLICE / spacing));

// A scan on the voxels of another, as grids.resampled: { values } in the reference's file order.
export function onGrid(image, reference) {
  const matrix = multiply(invert(image.affine), reference.affine)
    .map((row) => row.map((x) => Math.round(x * 1e9) / 1e9));
  const edges = [...image.shape].reverse(); // file order: the first axis is the fastest
  let values = finite(image.values);
  for (let axis = 0; axis < 3; axis++) {
    const step = Math.max(...matrix[axis].slice(0, 3).map(Math.abs));
    values = smooth(values, edges, 2 - axis, Math.max(step - 1, 0) / 2);
  }
  const dark = finite(image.values).reduce((least, value) => Math.min(least, value), Infinity);
  return { ...reference, name: image.name, values: interpolated(values, image.shape, matrix, reference.shape, dark) };
}

function interpolated(values, shape, matrix, wanted, dark) {
  const [nx, ny, nz] = shape, result = new Float32Array(wanted[0] * wanted[1] * wanted[2]).fill(dark);
  let to = 0;
  for (let k = 0; k < wanted[2]; k++)
    for (let j = 0; j < wanted[1]; j++)
      for (let i = 0; i < wanted[0]; i++, to++) {
        const [x, y, z] = [0, 1, 2].map((axis) => {
          const row = matrix[axis];
          return row[0] * i + row[1] * j + row[2] * k + row[3];
        });
        if (!(x >= 0 && y >= 0 && z >= 0 && x <= nx - 1 && y <= ny - 1 && z <= nz - 1)) continue;
        const [x0, y0, z0] = [Math.floor(x), Math.floor(y), Math.floor(z)];
        let total = 0;
        for (const [zi, wz] of [[z0, 1 - z + z0], [Math.min(z0 + 1, nz - 1), z - z0]])
          for (const [yi, wy] of [[y0, 1 - y + y0], [Math.min(y0 + 1, ny - 1), y - y0]]) {
            const line = (zi * ny + yi) * nx;
            total += wz * wy * (values[line + x0] * (1 - x + x0)
              + values[line + Math.min(x0 + 1, nx - 1)] * (x - x0));
          }
        result[to] = total;
      }
  return result;
}

// The share of the head in the reference that another scan shows.
export function overlap(image, reference) {
  const matrix = multiply(invert(image.affine), reference.affine);
  const places = reference.shape.map((edge) => {
    const number = Math.min(edge, 24);
    return Array.from({ length: number }, (_, i) =>
      evenRound(number > 1 ? (i * (edge - 1)) / (number - 1) : 0));
  });
  const points = [];
  for (const i of places[0]) for (const j of places[1]) for (const k of places[2])
    points.push({ at: [i, j, k, 1], grey: reference.values[(k * reference.shape[1] + j) * reference.shape[0] + i] });
  const known = points.filter(({ grey }) => !Number.isNaN(grey));
  const mean = known.reduce((sum, { grey }) => sum + grey, 0) / known.length;
  const head = points.filter(({ grey }) => grey >= mean);
  const inside = head.filter(({ at }) => image.shape.every((edge, axis) => {
    const place = matrix[axis].reduce((sum, x, k) => sum + x * at[k], 0);
    return place >= -0.5 && place <= edge - 0.5;
  }));
  return inside.length / head.length;
}

export function sameGrid(image, reference) {
  if (image.shape.some((edge, axis) => edge !== reference.shape[axis])) return false;
  return image.affine.every((row, i) => row.reduce((sum, x, j) =>
    sum + Math.abs(x - reference.affine[i][j]) * [...image.shape, 1][j], 0) <= 0.5);
}

// Statistics of a sequence, as volume.channel_statistics: background level and tissue scale.

export function backgroundAndScale(pixels) {
  const counts = new Float64Array(256);
  for (const pixel of pixels) counts[pixel]++;
  const levels = Array.from(counts.keys());
  const first = levels.find((level) => counts[level]), last = levels.findLast((level) => counts[level]);
  if (first === last) return [first, 1];
  const threshold = otsu(counts, first, last);
  const mean = (from, to) => {
    let weight = 0, sum = 0;
    for (let level = from; level <= to; level++) {
      weight += counts[level];
      sum += counts[level] * level;
    }
    return sum / weight;
  };
  const air = mean(0, threshold);
  return [Math.fround(air), Math.fround(mean(threshold + 1, 255) - air)];
}

// skimage's threshold_otsu, whose counts are 32-bit floats.
function otsu(counts, first, last) {
  const f = Math.fround, number = last - first + 1;
  const weights = Array.from({ length: number }, (_, i) => f(counts[first + i]));
  const sums = (order) => {
    const result = [];
    let weight = 0, moment = 0;
    for (const i of order) {
      weight = f(weight + weights[i]);
      moment += weights[i] * (first + i);
      result[i] = { weight, mean: moment / weight };
    }
    return result;
  };
  const places = Array.from(weights.keys());
  const below = sums(places), above = sums([...places].reverse());
  let best = -1, found = first;
  for (let i = 0; i < number - 1; i++) {
    const difference = below[i].mean - above[i + 1].mean;
    const variance = f(below[i].weight * above[i + 1].weight) * difference ** 2;
    if (variance > best) [best, found] = [variance, first + i];
  }
  return found;
}

// The network's channels of slices from one to another: sequences, then FLAIR above and below.
export function channels(sequences, neighbours, stride, from, to) {
  const area = SIZE * SIZE, number = sequences[1].length / area;
  const width = neighbours ? 5 : 3, result = new Uint8Array((to - from) * width * area);
  const copy = (sequence, slice, place) =>
    result.set(sequences[sequence].subarray(slice * area, (slice + 1) * area), place * area);
  for (let slice = from; slice < to; slice++) {
    const place = (slice - from) * width;
    for (let sequence = 0; sequence < 3; sequence++) copy(sequence, slice, place + sequence);
    if (!neighbours) continue;
    copy(1, slice >= stride ? slice - stride : slice, place + 3);
    copy(1, slice + stride < number ? slice + stride : slice, place + 4);
  }
  return result;
}

// A mask without connected components (by faces, edges or corners) of fewer voxels than this share
// of the largest one.
export function dropSmallComponents(mask, share) {
  const area = SIZE * SIZE, label = new Int32Array(mask.length), sizes = [0], stack = [];
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || label[start]) continue;
    const part = sizes.length;
    sizes.push(0);
    label[start] = part;
    stack.push(start);
    while (stack.length) {
      const place = stack.pop(), x = place % SIZE, y = Math.floor(place / SIZE) % SIZE;
      sizes[part]++;
      for (let dz = -area; dz <= area; dz += area)
        for (let dy = y ? -1 : 0; dy <= (y < SIZE - 1 ? 1 : 0); dy++)
          for (let dx = x ? -1 : 0; dx <= (x < SIZE - 1 ? 1 : 0); dx++) {
            const next = place + dz + dy * SIZE + dx;
            if (next < 0 || next >= mask.length || !mask[next] || label[next]) continue;
            label[next] = part;
            stack.push(next);
          }
    }
  }
  const most = Math.max(...sizes);
  return mask.map((inside, place) => Number(inside && sizes[label[place]] >= share * most));
}

// A mask of the model's pixels on the voxels of the scan, in the order of its file.
export function maskOnScan(mask, shape, turn, { zoom, offset }) {
  const edges = turn.map(({ axis }) => shape[axis]);
  const nearest = (axis) => Array.from({ length: edges[axis] }, (_, i) => {
    const place = (i - offset[axis]) * (1 / zoom[axis]);
    return place >= 0 && place <= SIZE - 1 ? Math.floor(place + 0.5) : -1;
  });
  const rows = nearest(1), columns = nearest(2);
  const result = new Uint8Array(edges[0] * edges[1] * edges[2]);
  let to = 0;
  for (let s = 0; s < edges[0]; s++)
    for (let r = 0; r < edges[1]; r++)
      for (let c = 0; c < edges[2]; c++, to++)
        if (rows[r] >= 0 && columns[c] >= 0)
          result[to] = mask[(s * SIZE + rows[r]) * SIZE + columns[c]];
  return turnedBack(result, shape, turn);
}

// An estimate of the mask's Dice, as evaluation.quality: of the lenient and the strict mask.
export function expectedDice(probability, { intercept, slope }) {
  let lenient = 0, strict = 0;
  for (const value of probability) {
    if (value >= Math.fround(0.2)) lenient++;
    if (value >= Math.fround(0.8)) strict++;
  }
  const agreement = lenient + strict ? (2 * strict) / (strict + lenient) : 1;
  return Math.min(Math.max(intercept + slope * agreement, 0), 1);
}

// What should make a reader look twice, as lggseg/inference/flags.py.
export function qualityFlags(sequences, mask, low) {
  const area = SIZE * SIZE, number = mask.length / area;
  const some = (from, to) => mask.subarray(from * area, to * area).some(Boolean);
  const same = (a, b) => a === b || a.every((pixel, place) => pixel === b[place]);
  const blank = Array.from({ length: number }, (_, slice) => sequences.every((pixels) =>
    pixels.subarray(slice * area, (slice + 1) * area).every((pixel) => pixel <= BLANK)));
  return Object.entries({
    no_tumour: !mask.some(Boolean),
    low_expected_dice: low,
    tumour_in_outermost_slice: some(0, 1) || some(number - 1, number),
    blank_slice: blank.some(Boolean),
    pre_contrast_is_flair: same(sequences[0], sequences[1]),
    post_contrast_is_flair: same(sequences[2], sequences[1]),
    normalised_by_one_slice: number === 1,
  }).filter(([, raised]) => raised).map(([name]) => name);
}

// Runs pipeline.js and scans.js on files: node pipeline_run.mjs STATIC SCAN MASK T1 OUT. Writes what
// the page would make of the scan, of a mask of the model's pixels, and of a T1, as raw arrays.
import { readFileSync, writeFileSync } from "node:fs";

const [folder, scan, maskFile, second, out] = process.argv.slice(2);
const p = await import(`${folder}/pipeline.js`);
const s = await import(`${folder}/scans.js`);

const bytes = (path) => new Uint8Array(readFileSync(path));
const image = await s.readNifti("scan.nii", bytes(scan));
const turn = p.turnOf(image.affine);
const sizes = p.voxelSizes(image.affine), spacing = turn.map(({ axis }) => sizes[axis]);
const { values, edges } = p.turned(p.finite(image.values), image.shape, turn);
const grid = p.gridOf(values, edges, spacing);
const pixels = p.pixelsOf(values, edges, grid);
const mask = bytes(maskFile);
const other = await s.readNifti("t1.nii", bytes(second));
const moved = p.onGrid(other, image);

const write = (name, array) => writeFileSync(`${out}/${name}`, Buffer.from(array.buffer, array.byteOffset, array.byteLength));
write("pixels", pixels);
write("statistics", Float32Array.from(p.backgroundAndScale(pixels)));
write("kept", p.dropSmallComponents(mask, 0.1));
write("on_scan", p.maskOnScan(mask, image.shape, turn, grid));
write("on_grid", moved.values);
const sequences = [mask, pixels, mask];
write("channels", p.channels(sequences, true, p.sliceStride(spacing[0]), 0, edges[0]));
const written = s.writeNifti(p.maskOnScan(mask, image.shape, turn, grid), image);
write("mask.nii", written);
writeFileSync(`${out}/facts.json`, JSON.stringify({
  overlap: p.overlap(other, image), same: p.sameGrid(image, image), flags: p.qualityFlags(sequences, mask, false),
  expected: p.expectedDice(Float32Array.from(pixels, (x) => x / 255), { intercept: 0.1, slope: 0.8 }),
}));

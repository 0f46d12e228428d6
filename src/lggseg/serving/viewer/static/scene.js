// What NiiVue draws: a volume of three sequences, the prediction as a film over it, and the truth's
// outline as its drawing.

const { Niivue, NVImage, SLICE_TYPE, DRAG_MODE } = window.niivue;

const SIZE = 256;
// Okabe and Ito's sky blue and vermilion, as in every figure of the project. Outside a mask the
// colour is the same but transparent, so that no dark seam comes of the interpolation.
const PREDICTION = { R: [86, 86], G: [180, 180], B: [233, 233], A: [0, 255], I: [0, 255] };
const TRUTH = { R: [0, 213], G: [0, 94], B: [0, 0], A: [0, 255], I: [0, 1] };
const OPACITY = 0.45;

// Raises an error where the browser cannot draw.
export async function createScene(canvas, onSlice) {
  const nv = new Niivue({
    backColor: [0, 0, 0, 1],
    crosshairColor: [0.6, 0.6, 0.6, 1],
    dragAndDropEnabled: false,
    dragMode: DRAG_MODE.windowing,
    fontColor: [0.75, 0.75, 0.75, 1],
    isForceMouseClickToVoxelCenters: true,
    isRadiologicalConvention: true,
    loadingText: "",
    logLevel: "error",
    sagittalNoseLeft: true,
  });
  // The page has its own keys, lets fingers scroll it, and takes files wherever they are dropped.
  const none = () => {};
  Object.assign(nv, {
    keyDownListener: none, keyUpListener: none,
    touchStartListener: none, touchMoveListener: none, touchEndListener: none,
    dragEnterListener: none, dragOverListener: none, dropListener: async () => {},
  });
  // The letter of a side keeps off the image's edge.
  const letter = nv.drawTextRight.bind(nv);
  nv.drawTextRight = ([x, y], ...rest) => letter([x + 8 * devicePixelRatio, y], ...rest);
  await nv.attachToCanvas(canvas);
  nv.addColormap("prediction", PREDICTION);
  nv.setDrawColormap(TRUTH);
  nv.setDrawOpacity(1);
  nv.onLocationChange = ({ vox }) => onSlice(Math.round(vox[2]));

  let film, bright, sequence = 1;

  async function show(url, facts) {
    const [along, down, across] = facts.spacing ?? [1, 1, 1];
    const affine = [-across, 0, 0, 0, 0, -down, 0, 0, 0, 0, along, 0, 0, 0, 0, 1];
    const edges = [SIZE, SIZE, facts.slices];
    const empty = new Uint8Array(SIZE * SIZE * facts.slices);
    const file = NVImage.createNiftiArray(edges, [across, down, along], affine, 2, empty);
    const look = { colormap: "prediction", opacity: OPACITY, cal_min: 0, cal_max: 1 };
    bright = facts.bright;
    nv.closeDrawing();
    await nv.loadVolumes([{ url, name: "volume.nii", colormap: "gray", frame4D: sequence }]);
    film = await NVImage.loadFromUrl({ url: file, name: "mask.nii", ...look });
    nv.addVolume(film);
    nv.createEmptyDrawing();
    setSequence(sequence);
  }

  function setSequence(number) {
    sequence = number;
    const volume = nv.volumes[0];
    if (!volume) return;
    // The extremes that a double click goes back to are the same.
    volume.cal_min = volume.robust_min = 0;
    volume.cal_max = volume.robust_max = bright[number];
    volume.frame4D = number;
    nv.updateGLVolume();
  }

  // The prediction as a byte a pixel, the truth as the pixels of its outline; null for neither.
  function setMarks(prediction, outline) {
    film.img.fill(0);
    nv.drawBitmap.fill(0);
    if (prediction) film.img.set(prediction);
    for (const pixel of outline ?? []) {
      film.img[pixel] = 0; // or the film would dim the line
      // A drawing's columns go right and its rows go front, both against those of a slice.
      nv.drawBitmap[pixel ^ (SIZE * SIZE - 1)] = 1;
    }
    nv.refreshLayers(film, 1);
    nv.refreshDrawing(true);
  }

  function setSlice(slice) {
    if (!nv.volumes.length) return;
    const [x, y, z] = nv.frac2vox(nv.scene.crosshairPos);
    if (z !== slice) nv.moveCrosshairInVox(0, 0, slice - z);
  }

  function setPlanes(three) {
    nv.setCrosshairWidth(three ? 1 : 0);
    nv.setSliceType(three ? SLICE_TYPE.MULTIPLANAR : SLICE_TYPE.AXIAL);
  }

  setPlanes(false);
  return { show, setSequence, setMarks, setSlice, setPlanes };
}

// The pixels of a mask that have a neighbour in their slice outside it.
export function outlineOf(mask) {
  const pixels = [];
  mask.forEach((inside, pixel) => {
    if (!inside) return;
    const neighbours = [pixel - 1, pixel + 1, pixel - SIZE, pixel + SIZE];
    if (!neighbours.every((neighbour) => mask[neighbour])) pixels.push(pixel);
  });
  return pixels;
}

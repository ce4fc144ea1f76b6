// The text of a convolution and its parts: "1x64x56x56 ->128 k3 s2 p1 g1 conv fp32 nchw".

export const PARTS = ["batch", "inputs", "height", "width", "outputs", "kernel", "stride", "padding", "dilation", "groups", "pattern", "precision", "layout"];

const TEXT = /^(?<batch>\d+)x(?<inputs>\d+)x(?<height>\d+)x(?<width>\d+) ->(?<outputs>\d+) k(?<kernel>[\dx]+) s(?<stride>[\dx]+) p(?<padding>[\dx,]+)(?: d(?<dilation>[\dx]+))? g(?<groups>\d+) (?<pattern>[a-z+]+) (?<precision>\w+) (?<layout>\w+)$/;

/** Return the parts of a text as texts, null when it is no convolution. */
export function parse(text) {
  const found = TEXT.exec(text.trim().replace(/\s+/g, " "));
  return found ? { ...found.groups, dilation: found.groups.dilation ?? "1" } : null;
}

/** Return the text of parts. */
export function compose(parts) {
  const dilation = parts.dilation && parts.dilation !== "1" ? ` d${parts.dilation}` : "";
  return `${parts.batch}x${parts.inputs}x${parts.height}x${parts.width} ->${parts.outputs} k${parts.kernel} s${parts.stride} p${parts.padding}${dilation} g${parts.groups} ${parts.pattern} ${parts.precision} ${parts.layout}`;
}

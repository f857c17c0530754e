"""Tensors of Hugging Face's models and ours, by a family's table: what is read one way is written the other way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from eyas.core.block_config import BlockSpec
from eyas.core.errors import CheckpointError
from eyas.core.mixer_config import MixerConfig
from eyas.core.model import ModelSpec
from eyas.layers.hf import Family, Part, Section

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Correspondence:
    """One of their tensors: ours behind each other along one dimension."""

    theirs: str
    ours: tuple[str, ...]
    shapes: tuple[Shape, ...]
    """Of ours, whole."""
    squeezed: int | None = None
    """A dimension of size one that ours lack."""
    expert: int | None = None
    """Which expert's part of ours it is; None where ours are taken whole."""
    dim: int = 0
    """Along which ours lie behind each other."""
    groups: int | None = None
    """Groups of rows that make up ours and theirs, a dimension of their own while ours are joined."""
    repeats: bool = False
    """Whether it is a copy of what stands elsewhere; a file may leave it out."""

    @property
    def parts(self) -> list[Shape]:
        """Shapes of what theirs is made of."""
        shapes = [shape if self.expert is None else shape[1:] for shape in self.shapes]
        if self.groups is None:
            return shapes
        return [(self.groups, shape[0] // self.groups, *shape[1:]) for shape in shapes]

    @property
    def shape(self) -> Shape:
        """Of theirs."""
        shape = list(self.parts[0])
        shape[self.dim] = sum(part[self.dim] for part in self.parts)
        if self.groups is not None:
            shape[:2] = [shape[0] * shape[1]]
        if self.squeezed is not None:
            shape.insert(self.squeezed, 1)
        return tuple(shape)

    @property
    def numel(self) -> int:
        return prod(self.shape)

    def check(self, shape: Shape) -> None:
        """Raises CheckpointError for a tensor of another shape."""
        if shape != self.shape:
            raise CheckpointError(f"tensor {self.theirs!r} has shape {shape}, but this model has {self.shape}")

    def read(self, theirs: Tensor, ours: Mapping[str, Tensor]) -> None:
        """Copies their tensor into ours. Raises CheckpointError for a copy that is none."""
        self.check(tuple(theirs.shape))
        if self.repeats:
            if not torch.equal(theirs.to(ours[self.ours[0]].dtype), self.write(ours)):
                raise CheckpointError(
                    f"tensor {self.theirs!r} differs from {self.ours[0]}, which takes its place in this model"
                )
            return
        joined = self._grouped(theirs if self.squeezed is None else theirs.squeeze(self.squeezed))
        parts = joined.split([shape[self.dim] for shape in self.parts], self.dim)
        with torch.no_grad():
            for name, part in zip(self.ours, parts, strict=True):
                self._part(ours[name]).copy_(part)

    def write(self, ours: Mapping[str, Tensor]) -> Tensor:
        """Their tensor, made of ours; a copy."""
        joined = torch.cat([self._part(ours[name].detach()) for name in self.ours], self.dim)
        joined = joined if self.groups is None else joined.flatten(0, 1)
        return joined if self.squeezed is None else joined.unsqueeze(self.squeezed)

    def _part(self, tensor: Tensor) -> Tensor:
        return self._grouped(tensor if self.expert is None else tensor[self.expert])

    def _grouped(self, tensor: Tensor) -> Tensor:
        return tensor if self.groups is None else tensor.unflatten(0, (self.groups, -1))


def correspondences(family: Family, spec: ModelSpec) -> dict[str, Correspondence]:
    """Every tensor of theirs by its name. Raises CheckpointError for a weight of ours that the family has not."""
    names, width = family.names, spec.hidden_size
    table = (spec.vocab_size, width)
    found = [Correspondence(names.embedding, ("embedding.weight",), (table,))]
    sections = sections_of_layers if family.shared is None else family.shared.sections
    for section in (*sections(family, spec), *sections_of_depths(family, spec)):
        for part in section.parts:
            groups = None if part.groups is None else getattr(section.mixer, part.groups)
            found += expand(part, section.theirs, section.ours, section.shapes, groups)
    found.append(Correspondence(names.final_norm, ("final_norm.weight",), ((width,),)))
    if not spec.tie_embeddings:
        found.append(Correspondence(names.head, ("head.weight",), (table,)))
    if family.depths is not None:
        head = "embedding.weight" if spec.tie_embeddings else "head.weight"
        for layer in layers_behind(family, len(spec.blocks) // len(names.norms), len(spec.tail)):
            for copy, own in ((family.depths.embedding, "embedding.weight"), (family.depths.head, head)):
                found.append(Correspondence(f"{layer}{copy}.weight", (own,), (table,), repeats=True))
    return {tensor.theirs: tensor for tensor in found}


def sections_of_layers(family: Family, spec: ModelSpec) -> Iterator[Section]:
    """Each block's norm and mixers, where every layer of theirs has as many blocks."""
    names = family.names
    for index, block in enumerate(spec.blocks):
        layer, place = divmod(index, len(names.norms))
        yield from sections_of_block(family, spec, block, f"{names.layers}.{layer}.", f"blocks.{index}.", place)


def sections_of_block(
    family: Family, spec: ModelSpec, block: BlockSpec, theirs: str, ours: str, place: int
) -> Iterator[Section]:
    """The norm and the mixers of the block in this place of a layer of theirs."""
    yield norm_section(f"{theirs}{family.names.norms[place]}.", f"{ours}norm.", spec.hidden_size)
    for name in block.layers:
        yield mixer_section(family, spec.layers[name], spec.hidden_size, theirs, f"{ours}branches.{name}.")


def sections_of_depths(family: Family, spec: ModelSpec) -> Iterator[Section]:
    """Each layer that predicts a further token."""
    depths, width = family.depths, spec.hidden_size
    if depths is None:
        return
    layers = layers_behind(family, len(spec.blocks) // len(family.names.norms), len(spec.tail))
    for number, layer in enumerate(layers):
        ours = f"mtp.depths.{number}."
        for theirs, own in (
            (depths.embedding_norm, "embedding_norm"),
            (depths.hidden_norm, "hidden_norm"),
            (depths.final_norm, "final_norm"),
        ):
            yield norm_section(f"{layer}{theirs}.", f"{ours}{own}.", width)
        yield Section(layer, ours, (Part(f"{depths.join}.weight", ("join",)),), {"join": (width, 2 * width)})
        for index, block in enumerate(spec.tail[number]):
            yield from sections_of_block(family, spec, block, layer, f"{ours}blocks.{index}.", index)


def layers_behind(family: Family, layers: int, count: int) -> list[str]:
    """What the names of the tensors of `count` layers behind so many others begin with."""
    return [f"{family.names.layers}.{layers + number}." for number in range(count)]


def layers_ahead(family: Family, config: Mapping[str, Any]) -> list[str]:
    """The same of the layers that predict further tokens, as a config.json counts them."""
    if family.depths is None:
        return []
    return layers_behind(family, config.get("num_hidden_layers") or 0, config.get(family.depths.option) or 0)


def norm_section(theirs: str, ours: str, width: int) -> Section:
    """The one weight of a norm."""
    return Section(theirs, ours, (Part("weight", ("weight",)),), {"weight": (width,)})


def mixer_section(family: Family, mixer: MixerConfig, hidden_size: int, theirs: str, ours: str) -> Section:
    """The weights of one mixer."""
    shapes = {name: weight.shape for name, weight in mixer.weights(hidden_size).items()}
    return Section(theirs, ours, tuple(parts_of(family, mixer.kind, shapes)), shapes, mixer)


def parts_of(family: Family, kind: str, shapes: Mapping[str, Shape]) -> list[Part]:
    """The parts of a mixer that declares weights of these shapes, each weight in one of them."""
    parts = [
        part
        for part in family.mixers[kind]
        if all(name in shapes for name in part.ours) and all((name in shapes) is there for name, there in part.given)
    ]
    for name in shapes.keys() - {name for part in parts for name in part.ours}:
        raise CheckpointError(f"{family.model_type} has no place for the weight {name!r} of a layer of kind {kind}")
    return parts


def expand(
    part: Part, theirs: str, ours: str, shapes: Mapping[str, Shape], groups: int | None = None
) -> Iterator[Correspondence]:
    """A part of one mixer with whole names: one tensor, or one for each expert."""
    own = tuple(shapes[name] for name in part.ours)
    names = tuple(ours + name for name in part.ours)
    for expert in range(own[0][0]) if part.per_expert else [None]:
        name = theirs + (part.theirs if expert is None else part.theirs.format(expert))
        yield Correspondence(name, names, own, part.squeezed, expert, part.dim, groups)


FREQUENCIES = ".rotary_emb.inv_freq"
"""Of rotary positions, which follow from the options; older files hold them for every layer."""


def check_names(family: Family, spec: ModelSpec, theirs: Mapping[str, Shape]) -> None:
    """Raises CheckpointError naming a tensor that is missing, left over or of another shape."""
    table = correspondences(family, spec)
    for name in sorted(table.keys() - theirs.keys() - {name for name, tensor in table.items() if tensor.repeats}):
        raise CheckpointError(f"tensor {name!r} is missing from the {family.model_type} weights")
    for name in sorted(theirs.keys() - table.keys() - needless(family, spec, theirs)):
        raise CheckpointError(f"tensor {name!r} has no place in this {family.model_type}")
    for name in sorted(table.keys() & theirs.keys()):
        table[name].check(theirs[name])


def needless(family: Family, spec: ModelSpec, names: Iterable[str]) -> set[str]:
    """Tensors that a file may hold although the model has them already: a head that is tied to the embedding, and what
    follows from the options."""
    tied = {family.names.head} if spec.tie_embeddings else set()
    return tied | {name for name in names if name.endswith(FREQUENCIES)}


def copies_last(table: Mapping[str, Correspondence]) -> list[Correspondence]:
    """The table in the order to read it in: copies are compared with what they repeat."""
    return sorted(table.values(), key=lambda tensor: tensor.repeats)


def our_tensors(family: Family, spec: ModelSpec, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of all tensors under our names. Raises CheckpointError as `check_names` does."""
    check_names(family, spec, {name: tuple(tensor.shape) for name, tensor in theirs.items()})
    ours: dict[str, Tensor] = {}
    for tensor in copies_last(correspondences(family, spec)):
        if tensor.theirs not in theirs:
            continue
        for own, shape in zip(tensor.ours, tensor.shapes, strict=True):
            if own not in ours:
                ours[own] = theirs[tensor.theirs].new_empty(shape)
        tensor.read(theirs[tensor.theirs], ours)
    return ours


def their_tensors(family: Family, spec: ModelSpec, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of all tensors under their names."""
    return {name: tensor.write(ours) for name, tensor in correspondences(family, spec).items()}

//! Where nodes and edges of a picture are.
//!
//! Every stage is a lane of one or more columns; lanes stand beside or below one another; time runs downwards. A node's row is below
//! everything that it needs, and it stays in the column of the step before it, so that a stage reads as a straight line.
//! Sources stand above the lane that uses them first, results below. An edge that is no straight line leaves its node at
//! the side, runs in the gutters between columns and the channels between rows, and shares its track with all other
//! edges of the same node.
//!
//! Invariants:
//! - no two nodes overlap, and no edge runs through a node;
//! - edges of different nodes never share a track where both run.

use std::collections::{BTreeMap, BTreeSet};

use super::{Edge, Kind, Picture, Use};

/// Width of a node, in pixels.
pub const NODE_WIDTH: i32 = 260;
/// Height of a node.
pub const NODE_HEIGHT: i32 = 46;
/// Around the whole picture.
const MARGIN: i32 = 16;
/// Between a node and the frame of its stage.
const FRAME: i32 = 12;
/// For the name of a stage.
const TITLE: i32 = 20;
/// Between two parallel edges.
const TRACK: i32 = 9;
/// Between two rows when no edge runs there.
const ROW_GAP: i32 = 26;
/// Between arrows that end at the same side of a node.
const ENTRY: i32 = 8;

/// A place in the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Point {
    pub x: i32,
    pub y: i32,
}

/// The frame of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Frame {
    pub name: String,
    pub x: i32,
    pub y: i32,
    pub width: i32,
    pub height: i32,
}

/// An edge as a line of horizontal and vertical pieces; the arrow is at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Which edge.
    pub edge: Edge,
    /// Its corners, ends included.
    pub points: Vec<Point>,
}

/// A picture with places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Upper left corners of the nodes.
    pub nodes: Vec<Point>,
    /// Frames of stages, from left to right.
    pub frames: Vec<Frame>,
    /// The edges.
    pub lines: Vec<Line>,
    /// Of the whole picture.
    pub width: i32,
    /// Of the whole picture.
    pub height: i32,
}

/// Row and column of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Cell {
    row: usize,
    column: usize,
}

struct Lane {
    name: Option<String>,
    /// Nodes in order.
    members: Vec<usize>,
    sources: Vec<usize>,
    first_column: usize,
    columns: usize,
}

/// How an edge runs.
#[derive(Debug, Clone, Copy)]
enum Route {
    /// Straight down.
    Straight,
    /// Down one gutter, into the side.
    Gutter { gutter: usize, left: bool },
    /// Down a gutter, along the channel above the target, and down another gutter into the side, or into the top.
    Channel { out: usize, into: Option<usize>, left: bool },
}

/// Finds the places.
pub fn layout(picture: &Picture) -> Layout {
    let mut lanes = lanes(picture);
    let cells = cells(picture, &mut lanes);
    let columns = cells.iter().map(|cell| cell.column + 1).max().unwrap_or(0);
    let rows = cells.iter().map(|cell| cell.row + 1).max().unwrap_or(0);
    let routes: Vec<Route> = picture.edges.iter().map(|edge| route(picture, &cells, edge)).collect();
    let tracks = Tracks::assign(picture, &cells, &routes, columns, rows);
    let places = Places::new(&lanes, &cells, picture, &tracks, columns, rows);
    let nodes: Vec<Point> = cells.iter().map(|cell| places.corner(*cell)).collect();
    let lines = lines(picture, &cells, &routes, &tracks, &places);
    Layout {
        frames: frames(picture, &lanes, &cells, &places),
        nodes,
        lines,
        width: places.width,
        height: places.height,
    }
}

/// The lanes in the order of their first nodes. Sources belong to the first stage that uses them.
fn lanes(picture: &Picture) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = Vec::new();
    let new = |name: Option<String>| Lane {
        name,
        members: Vec::new(),
        sources: Vec::new(),
        first_column: 0,
        columns: 1,
    };
    for (index, node) in picture.nodes.iter().enumerate() {
        let Some(group) = &node.group else { continue };
        let known = lanes.iter_mut().find(|lane| lane.name.as_ref() == Some(group));
        match known {
            Some(lane) => lane.members.push(index),
            None => {
                let mut lane = new(Some(group.clone()));
                lane.members.push(index);
                lanes.push(lane);
            }
        }
    }
    for (index, node) in picture.nodes.iter().enumerate().filter(|(_, node)| node.group.is_none()) {
        // A result stands below what it is made of, a source above what goes on with it, or else what reads it.
        let mut uses: Vec<&Edge> = picture
            .edges
            .iter()
            .filter(|edge| if node.kind == Kind::Result { edge.to == index } else { edge.from == index })
            .collect();
        uses.sort_by_key(|edge| (edge.what, edge.to));
        let other = |edge: &Edge| if node.kind == Kind::Result { edge.from } else { edge.to };
        let lane = uses.iter().find_map(|edge| {
            lanes
                .iter()
                .position(|lane| lane.members.contains(&other(edge)) || lane.sources.contains(&other(edge)))
        });
        let lane = lane.unwrap_or_else(|| {
            lanes.push(new(None));
            lanes.len() - 1
        });
        match (lanes.get_mut(lane), node.kind) {
            (Some(lane), Kind::Result) => lane.members.push(index),
            (Some(lane), _) => lane.sources.push(index),
            (None, _) => {}
        }
    }
    lanes
}

/// Gives every node its row, and every lane its columns: as far left as it fits below what is there already, near to
/// what it needs.
fn cells(picture: &Picture, lanes: &mut [Lane]) -> Vec<Cell> {
    let rows = rows(picture, lanes);
    let mut cells: Vec<Cell> = rows.iter().map(|row| Cell { row: *row, column: 0 }).collect();
    for lane in lanes.iter_mut() {
        lane.columns = columns(picture, lane, &mut cells);
    }
    let extent = |lane: &Lane| {
        let all = lane.sources.iter().chain(&lane.members).map(|node| rows[*node]);
        (all.clone().min().unwrap_or(0), all.max().unwrap_or(0))
    };
    let mut order: Vec<usize> = (0..lanes.len()).collect();
    order.sort_by_key(|lane| (extent(&lanes[*lane]).0, *lane));
    // First row, last row, and columns of what is placed.
    let mut placed: Vec<(usize, usize, usize, usize)> = Vec::new();
    for index in order {
        let lane = &lanes[index];
        let (first, last) = extent(lane);
        let is_free = |start: usize| {
            placed.iter().all(|(other_first, other_last, begin, end)| {
                last < *other_first || first > *other_last || start + lane.columns <= *begin || start >= *end
            })
        };
        let needs: Vec<usize> = picture
            .edges
            .iter()
            .filter(|edge| lane.members.contains(&edge.to) && !lane.members.contains(&edge.from))
            .filter(|edge| !lane.sources.contains(&edge.from))
            .map(|edge| cells[edge.from].column)
            .collect();
        let wanted = if needs.is_empty() { 0 } else { needs.iter().sum::<usize>() / needs.len() };
        let width = placed.iter().map(|(.., end)| *end).max().unwrap_or(0);
        let start = (0..=width).filter(|start| is_free(*start)).min_by_key(|start| start.abs_diff(wanted));
        let start = start.unwrap_or(width);
        placed.push((first, last, start, start + lane.columns));
        for node in lane.sources.iter().chain(&lane.members) {
            cells[*node].column += start;
        }
        lanes[index].first_column = start;
    }
    cells
}

/// Rows: a step stands below all that it needs, sources above the first step of their lane.
fn rows(picture: &Picture, lanes: &mut [Lane]) -> Vec<usize> {
    let mut rows = vec![0; picture.nodes.len()];
    for lane in lanes.iter_mut() {
        // What the lane goes on with stands next to it.
        let is_base = |source: usize| {
            let mut uses = picture.edges.iter().filter(|edge| edge.from == source);
            uses.any(|edge| edge.what == Use::Base && lane.members.contains(&edge.to))
        };
        lane.sources.sort_by_key(|source| is_base(*source));
        for (row, source) in lane.sources.iter().enumerate() {
            rows[*source] = row;
        }
    }
    let mut room = vec![0; picture.nodes.len()];
    for lane in lanes.iter() {
        lane.members.iter().for_each(|member| room[*member] = lane.sources.len());
    }
    for (index, node) in picture.nodes.iter().enumerate() {
        if node.group.is_some() || node.kind == Kind::Result {
            let inputs = picture.edges.iter().filter(|edge| edge.to == index);
            let below = inputs.map(|edge| rows[edge.from] + 1).max().unwrap_or(0);
            rows[index] = below.max(room[index]);
        }
    }
    // Sources come down to where they are used; every lane has room for them above its first step.
    for lane in lanes.iter() {
        let first = lane.members.iter().map(|member| rows[*member]).min().unwrap_or(lane.sources.len());
        for (height, source) in lane.sources.iter().rev().enumerate() {
            rows[*source] = first.saturating_sub(height + 1);
        }
    }
    rows
}

/// Columns within a lane, from 0. Gives how many there are.
fn columns(picture: &Picture, lane: &Lane, cells: &mut [Cell]) -> usize {
    let mut taken: BTreeSet<(usize, usize)> =
        lane.sources.iter().map(|source| (cells[*source].row, 0)).collect();
    let mut columns = 1;
    let mut members = lane.members.clone();
    members.sort_by_key(|member| (cells[*member].row, *member));
    for member in members {
        let base = picture.edges.iter().find(|edge| edge.to == member && edge.what == Use::Base);
        let before =
            base.filter(|edge| lane.members.contains(&edge.from)).map(|edge| cells[edge.from].column);
        let row = cells[member].row;
        let is_free = |column: &usize| !taken.contains(&(row, *column));
        let column = before.filter(is_free).or_else(|| (0..).find(is_free)).unwrap_or(0);
        taken.insert((row, column));
        cells[member].column = column;
        columns = columns.max(column + 1);
    }
    columns
}

fn route(picture: &Picture, cells: &[Cell], edge: &Edge) -> Route {
    let (from, to) = (cells[edge.from], cells[edge.to]);
    let between =
        cells.iter().any(|cell| cell.column == to.column && cell.row > from.row && cell.row < to.row);
    if from.column == to.column && !between {
        return Route::Straight;
    }
    // Only one thing may come in at the top: what the step goes on with.
    if edge.what == Use::Base && picture.nodes[edge.to].kind != Kind::Result {
        let out = if to.column > from.column { from.column + 1 } else { from.column };
        return Route::Channel { out, into: None, left: to.column <= from.column };
    }
    let (out, into, left) = match to.column.cmp(&from.column) {
        std::cmp::Ordering::Greater => (from.column + 1, to.column, true),
        std::cmp::Ordering::Less => (from.column, to.column + 1, false),
        std::cmp::Ordering::Equal => (from.column, to.column, true),
    };
    if out == into {
        return Route::Gutter { gutter: out, left };
    }
    Route::Channel { out, into: Some(into), left }
}

/// Which of the parallel tracks of a gutter or channel an edge's source has.
struct Tracks {
    /// By gutter and source.
    gutters: Vec<BTreeMap<usize, usize>>,
    /// By channel (the row below it) and source.
    channels: Vec<BTreeMap<usize, usize>>,
}

impl Tracks {
    fn assign(picture: &Picture, cells: &[Cell], routes: &[Route], columns: usize, rows: usize) -> Self {
        // Spans in half steps: rows are odd, channels even; columns odd, gutters even.
        type Spans = BTreeMap<usize, (usize, usize)>;
        let mut gutters: Vec<Spans> = vec![Spans::new(); columns + 1];
        let mut channels: Vec<Spans> = vec![Spans::new(); rows + 1];
        let widen = |spans: &mut Spans, source: usize, a: usize, b: usize| {
            let span = spans.entry(source).or_insert((usize::MAX, 0));
            *span = (span.0.min(a).min(b), span.1.max(a).max(b));
        };
        for (edge, route) in picture.edges.iter().zip(routes) {
            let (from, to) = (cells[edge.from], cells[edge.to]);
            let (top, bottom) = (2 * from.row + 1, 2 * to.row + 1);
            match *route {
                Route::Straight => {}
                Route::Gutter { gutter, .. } => widen(&mut gutters[gutter], edge.from, top, bottom),
                Route::Channel { out, into, .. } => {
                    widen(&mut gutters[out], edge.from, top, bottom - 1);
                    if let Some(into) = into {
                        widen(&mut gutters[into], edge.from, bottom - 1, bottom);
                    }
                    let end = into.map_or(2 * to.column + 1, |into| 2 * into);
                    widen(&mut channels[to.row], edge.from, 2 * out, end);
                }
            }
        }
        let colour = |all: Vec<Spans>| all.iter().map(coloured).collect();
        Self { gutters: colour(gutters), channels: colour(channels) }
    }

    fn count(tracks: &BTreeMap<usize, usize>) -> i32 {
        tracks.values().max().map_or(0, |track| i32::try_from(track + 1).unwrap_or(0))
    }
}

/// Gives spans that overlap different tracks.
fn coloured(spans: &BTreeMap<usize, (usize, usize)>) -> BTreeMap<usize, usize> {
    let mut sorted: Vec<_> = spans.iter().map(|(source, (start, end))| (*start, *end, *source)).collect();
    sorted.sort_unstable();
    let mut ends: Vec<usize> = Vec::new();
    let mut tracks = BTreeMap::new();
    for (start, end, source) in sorted {
        let free = ends.iter().position(|taken| *taken < start);
        let track = free.unwrap_or_else(|| {
            ends.push(0);
            ends.len() - 1
        });
        ends[track] = end;
        tracks.insert(source, track);
    }
    tracks
}

/// Where columns, rows, gutters and channels are.
struct Places {
    columns: Vec<i32>,
    rows: Vec<i32>,
    /// Left edge of the first track of each gutter.
    gutters: Vec<i32>,
    /// Upper edge of the first track of each channel.
    channels: Vec<i32>,
    width: i32,
    height: i32,
}

impl Places {
    fn new(
        lanes: &[Lane],
        cells: &[Cell],
        picture: &Picture,
        tracks: &Tracks,
        columns: usize,
        rows: usize,
    ) -> Self {
        let mut places = Self {
            columns: Vec::new(),
            rows: Vec::new(),
            gutters: Vec::new(),
            channels: Vec::new(),
            width: 0,
            height: 0,
        };
        let mut x = MARGIN;
        for column in 0..=columns {
            let is_edge =
                |lane: &Lane| lane.first_column == column || lane.first_column + lane.columns == column;
            let edge = if lanes.iter().any(is_edge) { FRAME } else { 0 };
            if column > 0 {
                x += edge;
            }
            let count = Tracks::count(&tracks.gutters[column]);
            places.gutters.push(x + TRACK);
            if count > 0 {
                x += (count + 1) * TRACK;
            }
            if column == columns {
                break;
            }
            // Neighbours stay apart even where nothing runs between them.
            x += if column > 0 && count == 0 { 2 * TRACK } else { 0 } + edge;
            places.columns.push(x);
            x += NODE_WIDTH;
        }
        places.width = x + MARGIN;
        let begins: Vec<usize> = lanes
            .iter()
            .filter(|lane| lane.name.is_some())
            .filter_map(|lane| framed(picture, lane).map(|node| cells[node].row).min())
            .collect();
        let mut y = MARGIN;
        for row in 0..rows {
            let count = Tracks::count(&tracks.channels[row]);
            places.channels.push(y + FRAME + TRACK / 2);
            if row > 0 || count > 0 {
                y += ROW_GAP + count * TRACK;
            }
            if begins.contains(&row) {
                y += TITLE + if row == 0 { FRAME } else { 0 };
            }
            places.rows.push(y);
            y += NODE_HEIGHT;
        }
        places.height = y + FRAME + MARGIN;
        places
    }

    fn corner(&self, cell: Cell) -> Point {
        Point { x: self.columns[cell.column], y: self.rows[cell.row] }
    }

    fn gutter(&self, tracks: &Tracks, gutter: usize, source: usize) -> i32 {
        let track = tracks.gutters[gutter].get(&source).copied().unwrap_or(0);
        self.gutters[gutter] + i32::try_from(track).unwrap_or(0) * TRACK
    }

    fn channel(&self, tracks: &Tracks, row: usize, source: usize) -> i32 {
        let track = tracks.channels[row].get(&source).copied().unwrap_or(0);
        self.channels[row] + i32::try_from(track).unwrap_or(0) * TRACK
    }
}

fn lines(picture: &Picture, cells: &[Cell], routes: &[Route], tracks: &Tracks, places: &Places) -> Vec<Line> {
    // Arrows at the same side of a node stand below one another, in the order in which they come.
    let mut sides: BTreeMap<(usize, bool), Vec<usize>> = BTreeMap::new();
    for (index, (edge, route)) in picture.edges.iter().zip(routes).enumerate() {
        match route {
            Route::Gutter { left, .. } | Route::Channel { into: Some(_), left, .. } => {
                sides.entry((edge.to, *left)).or_default().push(index);
            }
            _ => {}
        }
    }
    let entry = |index: usize, edge: &Edge, left: bool| -> i32 {
        let all = sides.get(&(edge.to, left)).map_or(&[][..], Vec::as_slice);
        let place = all.iter().position(|other| *other == index).unwrap_or(0);
        let (place, count) = (i32::try_from(place).unwrap_or(0), i32::try_from(all.len()).unwrap_or(1));
        // More than fit share the space.
        let step = ENTRY.min((NODE_HEIGHT - 10) / count.max(1));
        (2 * place - count + 1) * step / 2
    };
    let mut lines = Vec::new();
    for (index, (edge, route)) in picture.edges.iter().zip(routes).enumerate() {
        let (from, to) = (places.corner(cells[edge.from]), places.corner(cells[edge.to]));
        let (from_middle, to_middle) = (from.y + NODE_HEIGHT / 2, to.y + NODE_HEIGHT / 2);
        let points: Vec<(i32, i32)> = match *route {
            Route::Straight => {
                // Files come in beside what the step goes on with.
                let beside = if edge.what == Use::Files { 4 * TRACK } else { 0 };
                let x = from.x + NODE_WIDTH / 2 + beside;
                vec![(x, from.y + NODE_HEIGHT), (x, to.y)]
            }
            Route::Gutter { gutter, left } => {
                let x = places.gutter(tracks, gutter, edge.from);
                let y = to_middle + entry(index, edge, left);
                let side = if left { to.x } else { to.x + NODE_WIDTH };
                vec![(leave(from, x), from_middle), (x, from_middle), (x, y), (side, y)]
            }
            Route::Channel { out, into, left } => {
                let x = places.gutter(tracks, out, edge.from);
                let y = places.channel(tracks, cells[edge.to].row, edge.from);
                let mut points = vec![(leave(from, x), from_middle), (x, from_middle), (x, y)];
                match into {
                    None => {
                        let top = to.x + NODE_WIDTH / 2;
                        points.extend([(top, y), (top, to.y)]);
                    }
                    Some(into) => {
                        let down = places.gutter(tracks, into, edge.from);
                        let end = to_middle + entry(index, edge, left);
                        let side = if left { to.x } else { to.x + NODE_WIDTH };
                        points.extend([(down, y), (down, end), (side, end)]);
                    }
                }
                points
            }
        };
        lines.push(Line { edge: *edge, points: points.into_iter().map(|(x, y)| Point { x, y }).collect() });
    }
    lines
}

/// The side of a node that faces a gutter.
fn leave(corner: Point, gutter: i32) -> i32 {
    if gutter < corner.x { corner.x } else { corner.x + NODE_WIDTH }
}

/// Nodes of a lane that are in its frame.
fn framed<'a>(picture: &'a Picture, lane: &'a Lane) -> impl Iterator<Item = usize> + 'a {
    lane.members.iter().copied().filter(|member| picture.nodes[*member].group.is_some())
}

fn frames(picture: &Picture, lanes: &[Lane], cells: &[Cell], places: &Places) -> Vec<Frame> {
    let mut frames = Vec::new();
    for lane in lanes {
        let Some(name) = &lane.name else { continue };
        let rows: Vec<usize> = framed(picture, lane).map(|node| cells[node].row).collect();
        let (Some(first), Some(last)) = (rows.iter().min(), rows.iter().max()) else { continue };
        let left = places.columns[lane.first_column] - FRAME;
        let right = places.columns[lane.first_column + lane.columns - 1] + NODE_WIDTH + FRAME;
        let top = places.rows[*first] - TITLE - FRAME / 2;
        frames.push(Frame {
            name: name.clone(),
            x: left,
            y: top,
            width: right - left,
            height: places.rows[*last] + NODE_HEIGHT + FRAME - top,
        });
    }
    frames
}

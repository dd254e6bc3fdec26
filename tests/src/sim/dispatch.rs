//! What the clock brings goes to the process that it is for: frames, ends of connections, answers
//! to dials, timers. Heartbeats end here, since they are the network's own business.

use super::ctx::{COORDINATOR, Event, Pid};
use super::net::{ConnId, End, PING_EVERY, SILENCE, StreamNo};
use super::world::{Process, World};
use ringway_proto::frame::Kind;

impl World {
    /// Gives an event to the process that it is for; one that stands still gets it later.
    pub(super) fn dispatch(&mut self, event: Event) {
        let pid = match &event {
            Event::Arrive { conn, to, .. } => self.ctx.net.conn(*conn).map(|c| c.at(*to)),
            Event::Closed { conn, end } => self.ctx.net.conn(*conn).map(|c| c.at(*end)),
            Event::Dialled { from, .. } | Event::DialFailed { from, .. } => Some(*from),
            Event::Ping { conn } | Event::PongArrives { conn, .. } => {
                self.ctx.net.conn(*conn).map(|c| c.dialler)
            }
            Event::PingArrives { conn, .. } => self.ctx.net.conn(*conn).map(|c| c.acceptor),
            Event::Timer { pid, .. } => Some(*pid),
            Event::Echo { conn, from, .. } => self.ctx.net.conn(*conn).map(|c| c.at(*from)),
            Event::Start(_) | Event::Fault(_) | Event::Quiet | Event::Check => Some(COORDINATOR),
        };
        let Some(pid) = pid else { return };
        let outside = matches!(event, Event::Start(_) | Event::Fault(_));
        if self.ctx.is_paused(pid) && !outside {
            let resumes = self.ctx.standing[pid].paused_until;
            self.ctx.clock.at(resumes, event);
            return;
        }
        match event {
            Event::Arrive { conn, stream, to } => self.arrive(pid, conn, stream, to),
            Event::Closed { conn, end } => self.closed(pid, conn, end),
            Event::Dialled { from, life, to } => self.dialled(from, life, to),
            Event::DialFailed { from, life, to } => {
                if self.lives(from, life) {
                    let ctx = &mut self.ctx;
                    match &mut self.processes[from] {
                        Process::Worker(worker) => worker.dial_failed(ctx),
                        Process::Client(client) => client.dial_failed(ctx, to),
                        Process::Coordinator(_) => {}
                    }
                }
            }
            Event::Ping { conn } => self.ping(conn),
            Event::PingArrives { conn, sent } => self.ping_arrives(conn, sent),
            Event::PongArrives { conn, sent } => {
                let now = self.ctx.clock.now();
                if let Some(conn) = self.ctx.net.conn_mut(conn) {
                    conn.answered = conn.answered.max(sent);
                    conn.ponged = now;
                }
            }
            Event::Timer { pid, life, timer } => {
                if self.lives(pid, life) {
                    let ctx = &mut self.ctx;
                    match &mut self.processes[pid] {
                        Process::Coordinator(coordinator) => coordinator.timer(ctx, &timer),
                        Process::Worker(worker) => worker.timer(ctx, &timer),
                        Process::Client(client) => client.timer(ctx, &timer),
                    }
                }
            }
            Event::Echo { conn, from, stream, payload } => {
                self.ctx.send(conn, from, stream, Kind::Control, payload);
            }
            Event::Start(pid) => self.up(pid),
            Event::Fault(fault) => self.fault(&fault),
            Event::Quiet | Event::Check => {}
        }
    }

    fn lives(&self, pid: Pid, life: u64) -> bool {
        let standing = &self.ctx.standing[pid];
        standing.up && standing.life == life
    }

    fn arrive(&mut self, pid: Pid, conn: ConnId, stream: StreamNo, to: End) {
        let Some(item) = self.ctx.net.arrive(conn, stream, to) else { return };
        let ctx = &mut self.ctx;
        match &mut self.processes[pid] {
            Process::Coordinator(coordinator) => coordinator.arrived(ctx, conn, stream, item),
            Process::Worker(worker) if to == End::Dialler => worker.ordered(ctx, conn, item),
            Process::Worker(worker) => worker.arrived(ctx, conn, stream, item),
            Process::Client(client) => client.arrived(ctx, conn, stream, item),
        }
    }

    fn closed(&mut self, pid: Pid, conn: ConnId, end: End) {
        let other = self.ctx.net.conn(conn).map(|c| c.at(end.other()));
        if !self.ctx.net.noticed(conn, end) {
            return;
        }
        let ctx = &mut self.ctx;
        match &mut self.processes[pid] {
            Process::Coordinator(coordinator) => coordinator.disconnected(ctx, conn),
            Process::Worker(worker) if end == End::Dialler => worker.coordinator_gone(ctx),
            Process::Worker(worker) => worker.client_gone(ctx, conn),
            Process::Client(client) => client.disconnected(ctx, conn, other.unwrap_or_default()),
        }
    }

    fn dialled(&mut self, from: Pid, life: u64, to: Pid) {
        if !self.lives(from, life) {
            return;
        }
        let now = self.ctx.clock.now();
        let silent = |a, b| self.ctx.net.silent_until(now, a, b).is_some();
        let reached = self.ctx.standing[to].up && !self.ctx.is_paused(to);
        if !reached || silent(from, to) || silent(to, from) {
            let takes = self.ctx.dice.between(5, 200);
            self.ctx.clock.after(takes, Event::DialFailed { from, life, to });
            return;
        }
        let ctx = &mut self.ctx;
        let conn = ctx.net.connect(&mut ctx.clock, from, to);
        match &mut self.processes[from] {
            Process::Worker(worker) => worker.connected(ctx, conn),
            Process::Client(client) => client.connected(ctx, conn, to),
            Process::Coordinator(_) => {}
        }
    }

    fn ping(&mut self, id: ConnId) {
        let ctx = &mut self.ctx;
        let now = ctx.clock.now();
        let Some(conn) = ctx.net.conn_mut(id).filter(|c| c.is_open(End::Dialler)) else { return };
        if now > conn.next_ping + SILENCE / 2 {
            // It stood still itself, so what it has not heard is its own fault.
            conn.ponged = now;
        }
        conn.next_ping = now + PING_EVERY;
        let (from, to, silent_for) = (conn.dialler, conn.acceptor, now - conn.ponged);
        if silent_for > SILENCE {
            ctx.net.close(&mut ctx.clock, id, End::Dialler, 1);
            // Closed for good once the process itself knows.
            self.lost(id, from, to);
            return;
        }
        ctx.clock.after(PING_EVERY, Event::Ping { conn: id });
        if ctx.net.silent_until(now, from, to).is_none() && !ctx.dice.percent(ctx.net.loss_percent)
        {
            let takes = ctx.net.delay(&ctx.clock, &mut ctx.dice, from, to);
            ctx.clock.after(takes, Event::PingArrives { conn: id, sent: now });
        }
    }

    fn lost(&mut self, conn: ConnId, pid: Pid, to: Pid) {
        match &mut self.processes[pid] {
            Process::Worker(worker) => worker.coordinator_gone(&mut self.ctx),
            Process::Client(client) => client.disconnected(&mut self.ctx, conn, to),
            Process::Coordinator(_) => {}
        }
    }

    fn ping_arrives(&mut self, id: ConnId, sent: u64) {
        let ctx = &mut self.ctx;
        let now = ctx.clock.now();
        let Some(conn) = ctx.net.conn_mut(id).filter(|c| c.is_open(End::Acceptor)) else { return };
        conn.heard = now;
        let (from, to) = (conn.acceptor, conn.dialler);
        if ctx.net.silent_until(now, from, to).is_none() && !ctx.dice.percent(ctx.net.loss_percent)
        {
            let takes = ctx.net.delay(&ctx.clock, &mut ctx.dice, from, to);
            ctx.clock.after(takes, Event::PongArrives { conn: id, sent });
        }
    }
}

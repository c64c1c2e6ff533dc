//! The control of a card: its life cycle, its settings, and the pairs of queues that nobody has taken.

use crate::area::{CardSetup, RxSetup, TxSetup, feature, mode};
use crate::card::{Card, is_open};
use crate::error::OpenError;
use crate::registers::{CardCommand, Registers};
use crate::rx::Vmxnet3Rx;
use crate::tx::Vmxnet3Tx;
use core::ptr::NonNull;
use paravirt_device::{ControlError, Fault, NetTx};
use paravirt_pci::{Bound, Handlers, InterruptBinding};
use paravirt_platform::{AllocError, DmaBuffer, PageArc, PageBox, PageTable, Platform, ProcessorId};
use spin::Mutex;

/// A pair of queues.
pub(crate) struct Pair<P: Platform, B: DmaBuffer> {
    pub rx: Vmxnet3Rx<P>,
    pub tx: Vmxnet3Tx<P, B>,
    pub index: u16,
    /// The gate of the card at which it was set up, or took its buffers back.
    gate: u32,
}

impl<P: Platform, B: DmaBuffer> Pair<P, B> {
    pub fn new(rx: Vmxnet3Rx<P>, tx: Vmxnet3Tx<P, B>, index: u16) -> Self {
        // The gate of a new card, which has not given anything away.
        Self { rx, tx, index, gate: 1 }
    }

    /// Whether both halves are those of this pair of `card`: its owner may have exchanged one for another's.
    fn is_whole(&self, card: &PageArc<P, Card<P>>) -> bool {
        self.rx.is_of(card, self.index) && self.tx.is_of(card, self.index)
    }

    /// Drops the buffers that nobody takes back.
    fn forget_sent(&mut self) {
        while self.tx.sent().is_some() {}
    }

    /// Takes back what is in flight.
    fn drain(&mut self, gate: u32) {
        self.gate = gate;
        self.rx.drain();
        self.tx.drain();
    }

    fn set_gate(&mut self, gate: u32) {
        self.gate = gate;
        self.rx.set_gate(gate);
        self.tx.set_gate(gate);
    }
}

pub(crate) type PairBox<P, B> = PageBox<P, Pair<P, B>>;

/// What is known of a pair, wherever it is.
struct Place<P: Platform, B: DmaBuffer> {
    /// The pair, while nobody uses it.
    pair: Option<PairBox<P, B>>,
    tx: TxSetup,
    rx: RxSetup,
    /// What the card is to be told of the receive rings, once the pair has taken its buffers back.
    producers: Option<[u32; 2]>,
    was_taken: bool,
}

/// What is kept over a reset of the card.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Settings {
    pub mtu: u16,
    pub features: u64,
    pub rx_mode: u32,
    /// The number of multicast addresses in the memory of the card.
    pub filters: u16,
    pub mac: Option<[u8; 6]>,
    /// The number of queues over which received frames are spread.
    pub active: u16,
    pub revision: u32,
}

impl Settings {
    pub fn new(mtu: u16, pairs: u16, revision: u32) -> Self {
        let rss = if pairs > 1 { feature::RSS } else { 0 };
        Self {
            mtu,
            features: feature::RX_CHECKSUM | feature::RX_VLAN | rss,
            rx_mode: mode::UNICAST | mode::MULTICAST | mode::BROADCAST | mode::ALL_MULTICAST,
            filters: 0,
            mac: None,
            active: 1,
            revision,
        }
    }
}

struct State<P: Platform, B: DmaBuffer> {
    places: PageTable<P, Place<P, B>>,
    interrupts: InterruptBinding<P>,
    settings: Settings,
}

/// The control of a card, which its device and its queues share. When the last of them is dropped, the card is stopped.
pub(crate) struct Control<P: Platform, B: DmaBuffer> {
    state: Mutex<State<P, B>>,
    pub card: PageArc<P, Card<P>>,
}

impl<P: Platform, B: DmaBuffer> Control<P, B> {
    /// The control of a card that has been stopped.
    pub fn new(
        platform: &P,
        card: PageArc<P, Card<P>>,
        settings: Settings,
        mut make: impl FnMut(u16) -> Result<Pair<P, B>, AllocError>,
    ) -> Result<PageArc<P, Self>, OpenError> {
        let places = PageTable::try_new(platform, usize::from(card.pairs), |index| {
            let pair = make(index as u16)?;
            let (tx, rx) = (pair.tx.setup(0), pair.rx.setup(0));
            let pair = Some(PageBox::new(platform, pair)?);
            Ok::<_, AllocError>(Place { pair, tx, rx, producers: None, was_taken: false })
        })?;
        let interrupts = InterruptBinding::new(platform, card.registers.vector_count())?;
        let state = Mutex::new(State { places, interrupts, settings });
        Ok(PageArc::new(platform, Self { state, card })?)
    }

    /// Binds the interrupts, pair `n` on processor `n` of `processors`, and puts the card in service.
    pub fn start(&self, processors: u32) -> Result<(), Fault> {
        let state = &mut *self.state.lock();
        self.bind(&mut state.interrupts, processors);
        for place in state.places.iter_mut() {
            place.producers = place.pair.as_mut().map(|pair| pair.rx.prepare());
        }
        self.activate(state)
    }

    fn bind(&self, interrupts: &mut InterruptBinding<P>, processors: u32) {
        let registers = &self.card.registers;
        let pointer = NonNull::from(registers);
        let count = registers.vector_count();
        let handlers = Handlers {
            count,
            each: &|vector| {
                let pair = u32::from(vector).checked_rem(u32::from(self.card.pairs)).unwrap_or(0);
                registers.handler(vector, ProcessorId(pair.checked_rem(processors).unwrap_or(0)))
            },
            shared: Registers::shared_handler(pointer),
            line: Registers::line_handler(pointer),
        };
        // SAFETY: the handlers use the registers, which are in the pages of the card; this value holds them, and unbinds the handlers in
        // its `drop`.
        let bound = unsafe { interrupts.bind(registers.device(), &handlers) };
        registers.set_bound(bound != Bound::Nothing, bound != Bound::Messages);
    }

    /// How the interrupts are bound.
    pub fn bound(&self) -> Bound {
        self.state.lock().interrupts.bound()
    }

    /// Starts a card that has stopped, and all of whose pairs have taken their buffers back.
    fn activate(&self, state: &mut State<P, B>) -> Result<(), Fault> {
        let started = self.try_activate(state);
        if let Err(fault) = started {
            let stopped = self.card.stop();
            self.card.close(if stopped { fault } else { Fault::Timeout });
        }
        started
    }

    fn try_activate(&self, state: &mut State<P, B>) -> Result<(), Fault> {
        let (card, registers) = (&*self.card, &self.card.registers);
        if registers.device().is_gone() {
            return Err(Fault::Removed);
        }
        let Settings { mtu, features, rx_mode, filters, mac, active, revision } = state.settings;
        registers.set_versions(revision, 1);
        let is_shared = registers.on_card(1) == 0;
        let vectors = if is_shared { 1 } else { registers.vector_count() };
        let event_vector = registers.on_card(self.event_vector());
        let setup = CardSetup { features, mtu, pairs: card.pairs, vectors, event_vector, rx_mode, filters };
        card.area().write(&setup);
        card.area().set_rss(active);
        for (index, place) in (0u16..).zip(state.places.iter()) {
            let vector = |vector| registers.on_card(vector);
            card.area()
                .write_tx(index, &TxSetup { vector: vector(tx_vector(card.pairs, index)), ..place.tx });
            card.area().write_rx(card.pairs, index, &RxSetup { vector: vector(index), ..place.rx });
        }
        mac.into_iter().for_each(|mac| registers.set_mac(mac));
        registers.set_shared_area(card.area().address());
        if !card.start() || registers.ask(CardCommand::Activate) != 0 {
            return Err(Fault::Refused);
        }
        for (index, place) in (0u16..).zip(state.places.iter_mut()) {
            let [first, second] = place.producers.take().unwrap_or_default();
            registers.ring_rx(index, false, first);
            registers.ring_rx(index, true, second);
        }
        // Some cards have their own address again when they are activated.
        mac.into_iter().for_each(|mac| registers.set_mac(mac));
        registers.mask_all();
        registers.execute(CardCommand::UpdateReceiveMode);
        registers.execute(CardCommand::UpdateMacFilters);
        registers.execute(CardCommand::UpdateVlanFilters);
        card.reopen();
        let gate = card.gate();
        let pairs = state.places.iter_mut().filter_map(|place| place.pair.as_mut());
        pairs.filter(|pair| pair.is_whole(&self.card)).for_each(|pair| pair.set_gate(gate));
        Ok(())
    }

    /// The vector of events.
    pub fn event_vector(&self) -> u16 {
        self.card.pairs.wrapping_mul(2)
    }

    /// Stops the card because of `fault`, unless that was done since `gate`. After [`Fault::Reset`] it starts again when every pair has
    /// taken its buffers back; after any other fault it stays out of service.
    pub fn reset(&self, gate: u32, fault: Fault) {
        let state = &mut *self.state.lock();
        if fault == Fault::Removed && self.card.fault() == Some(Fault::Reset) {
            self.card.close(fault);
            return self.card.registers.wake_all();
        }
        if self.card.gate() != gate || !is_open(gate) {
            return;
        }
        let stopped = self.card.stop();
        let fault = if stopped { fault } else { Fault::Timeout };
        log::warn!("vmxnet3: the card was stopped: {fault}");
        self.card.close(fault);
        let gate = self.card.gate();
        for place in state.places.iter_mut() {
            let pair = place.pair.as_mut().filter(|pair| pair.is_whole(&self.card));
            place.producers = pair.map(|pair| {
                pair.drain(gate);
                pair.forget_sent();
                pair.rx.prepare()
            });
        }
        let _ = self.restart(state);
        self.card.registers.wake_all();
    }

    /// Starts the card again if every pair has taken its buffers back.
    fn restart(&self, state: &mut State<P, B>) -> Result<(), Fault> {
        let is_waiting = self.card.fault() == Some(Fault::Reset);
        if is_waiting && state.places.iter().all(|place| place.producers.is_some()) {
            let restarted = self.activate(state);
            self.card.registers.wake_all();
            return restarted;
        }
        Ok(())
    }

    /// Brings a pair to the state of the card: takes its buffers back if the card has stopped. Returns the gate of a card in service.
    ///
    /// # Errors
    ///
    /// The fault, while the card is out of service.
    #[cold]
    pub fn sync(&self, pair: &mut Pair<P, B>) -> Result<u32, Fault> {
        let state = &mut *self.state.lock();
        let gate = self.card.gate();
        if !pair.is_whole(&self.card) {
            return Err(self.refuse_halves());
        }
        if !is_open(gate) && pair.gate != gate {
            self.drain(state, pair, gate);
        }
        match self.card.fault() {
            None => {
                let gate = self.card.gate();
                pair.set_gate(gate);
                Ok(gate)
            }
            Some(fault) => Err(fault),
        }
    }

    /// A pair has a half of another one: the card, once it was stopped, cannot be started again.
    #[cold]
    fn refuse_halves(&self) -> Fault {
        if self.card.fault() == Some(Fault::Reset) {
            self.card.close(Fault::Refused);
            self.card.registers.wake_all();
        }
        Fault::Refused
    }

    fn drain(&self, state: &mut State<P, B>, pair: &mut Pair<P, B>, gate: u32) {
        pair.drain(gate);
        if self.card.fault() == Some(Fault::Reset) {
            let producers = pair.rx.prepare();
            if let Some(place) = state.places.get_mut(usize::from(pair.index)) {
                place.producers = Some(producers);
            }
            let _ = self.restart(state);
        }
    }

    /// Takes pair `index` out, once.
    pub fn take(&self, index: u16) -> Option<PairBox<P, B>> {
        let state = &mut *self.state.lock();
        let place = state.places.get_mut(usize::from(index)).filter(|place| !place.was_taken)?;
        let pair = place.pair.take()?;
        place.was_taken = true;
        Some(pair)
    }

    /// Puts a pair back that nobody uses any more: the card goes on with it until it is stopped.
    pub fn put_back(&self, mut pair: PairBox<P, B>) {
        pair.forget_sent();
        let state = &mut *self.state.lock();
        let gate = self.card.gate();
        if !pair.is_whole(&self.card) {
            self.refuse_halves();
        } else if !is_open(gate) && pair.gate != gate {
            self.drain(state, &mut pair, gate);
            pair.forget_sent();
        }
        if let Some(place) = state.places.get_mut(usize::from(pair.index)) {
            place.pair = Some(pair);
        }
    }

    /// Changes a setting and executes `command`.
    ///
    /// # Errors
    ///
    /// [`ControlError::Faulted`] while the card is out of service.
    pub fn change(
        &self,
        command: Option<CardCommand>,
        change: impl FnOnce(&mut Settings, &Card<P>),
    ) -> Result<(), ControlError> {
        let state = &mut *self.state.lock();
        if let Some(fault) = self.card.fault() {
            return Err(ControlError::Faulted(fault));
        }
        change(&mut state.settings, &self.card);
        command.into_iter().for_each(|command| self.card.registers.execute(command));
        Ok(())
    }

    /// Executes a command that has a result; `None` while the card is out of service.
    pub fn ask(&self, command: CardCommand) -> Option<u32> {
        let _state = self.state.lock();
        self.card.fault().is_none().then(|| self.card.registers.ask(command))
    }
}

/// The vector of the transmit side of a pair.
pub(crate) fn tx_vector(pairs: u16, index: u16) -> u16 {
    pairs.wrapping_add(index)
}

impl<P: Platform, B: DmaBuffer> Drop for Control<P, B> {
    fn drop(&mut self) {
        // Pairs reclaim their buffers, or leak them, when they are dropped after this.
        self.card.stop();
        self.card.close(Fault::Removed);
        let state = self.state.get_mut();
        state.interrupts.unbind(self.card.registers.device());
    }
}

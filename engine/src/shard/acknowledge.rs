//! Completions on their way back: collected during the turn, written at its end.

use super::{chain::Chain, disconnect, port::Port, tables::Tables, wait::Pace};

/// Writes what was completed, wakes who fell asleep, ends who failed. Returns whether there was
/// anything to write.
pub(super) fn acknowledge(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    pace: Pace,
) -> bool {
    let mut acknowledged = false;
    let mut failed = None;
    for at in 0..port.sessions.watched().len() {
        let session = port.sessions.watched_mut(at);
        let Some(mailbox) = &mut session.mailbox else {
            if session.failed {
                failed = Some(session.owner.id);
            }
            continue;
        };
        let is_idle = !mailbox.completions.is_pending() && mailbox.sender.is_empty();
        if pace == Pace::Errand && is_idle && !session.failed {
            continue;
        }
        let sleep_epoch = mailbox.reader.sleep_epoch();
        if mailbox.completions.is_pending() {
            acknowledged = true;
            if mailbox.sender.room() > 1
                && let Some((word, remote)) = mailbox.completions.take_only(sleep_epoch)
            {
                let transport = port.transports[session.route.transport].as_mut();
                let written = mailbox.sender.write(transport, &word.to_le_bytes(), remote);
                session.failed |= written.is_err();
            } else {
                mailbox.completions.post(sleep_epoch, &mut mailbox.sender);
            }
        } else {
            mailbox.completions.wake_if_asleep(sleep_epoch, &mut mailbox.sender);
        }
        if !mailbox.sender.is_empty() {
            let transport = port.transports[session.route.transport].as_mut();
            session.failed |= mailbox.sender.flush(transport).is_err();
        }
        if session.failed {
            failed = Some(session.owner.id);
        }
    }
    // One a turn is enough.
    if let Some(session) = failed {
        disconnect::close_session(port, tables, chain, session);
    }
    acknowledged
}

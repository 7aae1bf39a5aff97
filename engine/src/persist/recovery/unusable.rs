//! Names unreadable manifests when recovery without them fails.

use windlass_wire::PartitionId;

use super::{Damage, Recovered};
use crate::persist::manifest::manifest_name;

/// Adds the newest unusable manifest of a directory to the damage of each partition that came from there:
/// `directory_of` says where a partition's checkpoint is.
pub(super) fn name_them(
    recovered: &mut Recovered,
    directory_of: impl Fn(PartitionId) -> Option<usize>,
) {
    let Recovered { partitions, directories, .. } = recovered;
    for (at, directory) in directories.iter().enumerate() {
        let used = directory.manifest.as_ref().map(|used| manifest_name(used.number));
        let newer = directory.bad_manifests.iter().find(|bad| Some(&bad.file) > used.as_ref());
        let Some(bad) = newer else { continue };
        for (id, partition) in partitions.iter_mut() {
            let Some(first) = partition.damage.first() else { continue };
            let is_elsewhere = directory_of(*id).is_some_and(|of| of != at);
            if is_elsewhere || partition.damage.iter().any(|one| one.reason.contains(&bad.file)) {
                continue;
            }
            let (file, reason) = (bad.file.clone(), bad.reason.clone());
            let damage = Damage { partition: id.0, lsn: first.lsn, file, offset: 0, reason };
            partition.damage.insert(0, damage);
        }
    }
}

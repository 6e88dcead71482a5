//! Work on image files that belong to no machine. See [`crate::image_file`].

use std::path::Path;

use super::Turn;
use crate::failure::Failure;
use crate::id::{IdSource, JobId, VmId};
use crate::image_file::{ImageWork, require_free};
use crate::job::{JobKind, JobState, Stage};
use crate::request::Reply;

impl Turn<'_> {
    pub(super) fn begin_image_work(&mut self, work: &ImageWork, ids: &mut IdSource) -> Reply {
        let kind = match work {
            ImageWork::Create { .. } => JobKind::CreateImage,
            ImageWork::Convert { .. } => JobKind::ConvertImage,
            ImageWork::Resize { .. } => JobKind::ResizeImage,
            ImageWork::Merge { .. } => JobKind::MergeImages,
            ImageWork::Validate { .. } => JobKind::ValidateImage,
        };
        // A machine that nobody has: each such job is the only one of its own, and is taken up after a restart as the
        // work on any other machine is.
        let nobody = VmId(ids.next_uuid());
        let job = self.create_job(ids, nobody, kind);
        self.enter(job, Stage::LocatingImages(work.clone()));
        Reply::Job(job)
    }

    /// From here on the files are this job's, if nobody else has them.
    pub(super) fn images_located(&mut self, job: JobId, work: &ImageWork) {
        match require_free(&self.state, self.paths.root(), job, work) {
            Ok(()) => self.enter(job, Stage::WorkingOnImage(work.clone())),
            Err(failure) => self.end(job, JobState::Failed(failure)),
        }
    }

    pub(super) fn image_worked_on(&mut self, job: JobId, work: &ImageWork) {
        match work.leftover(job) {
            Some(path) => self.enter(job, Stage::RemovingImage { path, end: JobState::Completed }),
            None => self.end(job, JobState::Completed),
        }
    }

    /// What was drafted goes; an image that was to be merged stays, because it alone has all of its content.
    pub(super) fn image_work_failed(&mut self, job: JobId, work: &ImageWork, end: JobState) {
        match work.draft(job) {
            Some(path) => self.enter(job, Stage::RemovingImage { path, end }),
            None => self.end(job, end),
        }
    }

    pub(super) fn image_not_removed(&mut self, job: JobId, path: &Path, end: JobState, failure: &Failure) {
        let (kind, text) = match end {
            JobState::Completed => (failure.kind, "the work is done".to_owned()),
            JobState::Failed(first) => (first.kind, first.message),
            _ => (failure.kind, "the work was cancelled".to_owned()),
        };
        let hint = format!("remove '{}' by hand, nobody needs it", path.display());
        self.end(job, JobState::Failed(Failure::new(kind, format!("{text}, but {}", failure.message)).hint(hint)));
    }
}

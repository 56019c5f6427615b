"""Named domains and tasks: ``digits:printed``, ``mnist->usps``, ``office31:amazon->webcam``, ...

A *domain* is ``collection:domain``, or ``collection:domain:part`` where the data have a training
and a test part; MNIST, USPS, SVHN and MNIST-M are collections of one domain: ``mnist:test``.
A *task* is ``collection:source->target``; several sources are joined by ``+``.

`digits` is embedded. All else is read below the *data root*: the argument, else the environment
variable ``DOMADAPT_DATA``. Folders are found whatever their capitals, spaces, hyphens and
underscores.

====================  ==========================================================================
collection            below the data root
====================  ==========================================================================
`mnist`               ``mnist/[MNIST/raw/]{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]``
`usps`                ``usps/usps.npz`` (x_train, y_train, x_test, y_test; values 0 to 1 or
                      uint8), or torchvision's ``usps/usps[.t].bz2``
`svhn`                ``svhn/{train,test}_32x32.mat``
`mnist-m`             ``mnist-m/{train,test}/<class>/*.png``; also ``training`` and ``testing``
`office31`            ``office31/{amazon,dslr,webcam}/[images/]<class>/*.jpg``
`office-home`         ``office-home/{Art,Clipart,Product,Real World}/<class>/*.jpg``
`visda2017`           ``visda2017/{train,validation}/<class>/*``
`domainnet`           ``domainnet/{clipart,infograph,painting,quickdraw,real,sketch}/<class>/*``
`pacs`                ``pacs/[kfold/]{art_painting,cartoon,photo,sketch}/<class>/*``
`office31-features`   ``office31_features/*.npz`` (features, label, classes, domain)
`office-caltech`      ``office_caltech/{amazon,caltech10,dslr,webcam}_SURF_L10.mat``
`amazon`              ``amazon_bow/{books,dvd,electronics,kitchen}_{train,test}.svmlight[.gz]``
`amazon-reviews`      ``amazon_reviews/amazon_reviews.csv[.gz]`` (columns domain, label, text)
`har`                 ``har/*.npz`` (X, y, subject, split: 0 train, 1 test)
====================  ==========================================================================

MNIST, USPS and SVHN that are not there are downloaded by torchvision, into the data root or, where
there is none, into the user's cache folder.
"""

from domadapt.data.catalogue.named import Entry, domain, domains, pairs, protocol, task, tasks

__all__ = ["Entry", "domain", "domains", "pairs", "protocol", "task", "tasks"]
